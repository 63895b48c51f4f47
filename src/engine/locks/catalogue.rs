//! Well-known advisory lock keys and the tools that take them.
//!
//! A key names candidates, never a certainty: small constants collide between
//! products. Formulas that need the database's name are computed for the
//! database in which the lock is held, and take the tool's default names of
//! schema and table. Tools that hash a job's own id (GoodJob, Que, River, Oban,
//! pg-boss) or a name that the application chose (django-pglocks,
//! with_advisory_lock, Ecto) cannot be told from their key and are not listed:
//! `[[advisory_lock]]` in the configuration names such a key.

use super::key::LockKey;

/// golang-migrate's `advisoryLockIDSalt`; Grafana's migrator took it over.
const GOLANG_MIGRATE_SALT: u32 = 1_486_364_155;
/// Rails' `ActiveRecord::Migrator::MIGRATOR_SALT`.
const RAILS_SALT: i64 = 2_053_462_845;
/// The factor in sqlx's `generate_lock_id`.
const SQLX_FACTOR: i64 = 0x3d32_ad9e;
/// Flyway's `LOCK_MAGIC_NUM`.
const FLYWAY_MAGIC: i64 = 77_431_708_279_161;
/// pg_repack's `REPACK_LOCK_PREFIX_STR`, the first of two int4 keys.
const PG_REPACK_CLASS: i32 = 16_185_446;

/// Keys that are the same in every database.
const FIXED: [(i64, &str); 12] = [
    (42_424_242_424_242, "mcp-context-forge bootstrap"),
    (72_707_369, "Prisma Migrate"),
    // crc32("goose"), and before that crc64("goose") with the ECMA polynomial.
    (4_097_083_626, "goose migrations"),
    (5_887_940_537_704_921_958, "goose migrations"),
    (2_686_470_616, "Atlas (atlas_migrate_execute)"),
    (361_947_982, "Atlas (atlas_migrate_diff)"),
    (7_241_865_325_823_964, "node-pg-migrate"),
    (1000, "authentik migrations"),
    (1, "Airflow migrations"),
    (2, "Airflow scheduler"),
    (1, "graph-node"),
    (2, "graph-node"),
];

/// Names of the tools whose key this is in `database`, most specific first.
pub fn candidates(database: &str, key: LockKey) -> Vec<String> {
    match key {
        LockKey::Big(key) => bigint_candidates(database, key),
        LockKey::Pair(PG_REPACK_CLASS, _) => vec!["pg_repack".into()],
        LockKey::Pair(1, _) => vec!["graph-node".into()],
        LockKey::Pair(..) => Vec::new(),
    }
}

fn bigint_candidates(database: &str, key: i64) -> Vec<String> {
    let computed = [
        (rails(database), "Rails migrations"),
        (sqlx(database), "sqlx migrations"),
        (golang_migrate(database), "golang-migrate"),
        (grafana(database), "Grafana migrations"),
        (flyway("public", "flyway_schema_history"), "Flyway"),
    ];
    computed
        .iter()
        .chain(FIXED.iter())
        .filter(|(known, _)| *known == key)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

fn crc32(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes())
}

fn rails(database: &str) -> i64 {
    RAILS_SALT.wrapping_mul(i64::from(crc32(database)))
}

fn sqlx(database: &str) -> i64 {
    SQLX_FACTOR.wrapping_mul(i64::from(crc32(database)))
}

fn golang_migrate(database: &str) -> i64 {
    let mut joined = crc32fast::Hasher::new();
    joined.update(b"public\0schema_migrations\0");
    joined.update(database.as_bytes());
    i64::from(joined.finalize().wrapping_mul(GOLANG_MIGRATE_SALT))
}

fn grafana(database: &str) -> i64 {
    i64::from(crc32(database).wrapping_mul(GOLANG_MIGRATE_SALT))
}

fn flyway(schema: &str, table: &str) -> i64 {
    let quoted = ["\"", schema, "\".\"", table, "\""];
    // Java's String.hashCode.
    let hash = quoted
        .into_iter()
        .flat_map(str::encode_utf16)
        .fold(0_i32, |h, c| h.wrapping_mul(31).wrapping_add(i32::from(c)));
    FLYWAY_MAGIC + i64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each from the text that its tool hashes, by a second implementation of
    /// the hash, bit by bit.
    #[test]
    fn fixed_keys_are_the_hashes_that_their_tools_say() {
        let named = |key: i64| candidates("app", LockKey::Big(key));
        assert_eq!(
            named(i64::from(crc32_by_bits("goose"))),
            ["goose migrations"]
        );
        assert_eq!(named(crc64_by_bits("goose")), ["goose migrations"]);
        for name in ["atlas_migrate_execute", "atlas_migrate_diff"] {
            assert_eq!(named(i64::from(fnv1(name))), [format!("Atlas ({name})")]);
        }
        let flyway = b"Flyway".iter().zip([40, 32, 24, 16, 8, 0]);
        let magic: i64 = flyway.map(|(byte, shift)| i64::from(*byte) << shift).sum();
        assert_eq!(magic, FLYWAY_MAGIC);
        for text in ["app", "", "Überweisung", "a b"] {
            assert_eq!(crc32(text), crc32_by_bits(text));
        }
    }

    fn crc32_by_bits(text: &str) -> u32 {
        !text.bytes().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
            })
        })
    }

    fn crc64_by_bits(text: &str) -> i64 {
        let crc = text.bytes().fold(!0_u64, |crc, byte| {
            (0..8).fold(crc ^ u64::from(byte), |crc, _| {
                (crc >> 1) ^ (0xC96C_5795_D787_0F42_u64.wrapping_mul(crc & 1))
            })
        });
        (!crc).cast_signed()
    }

    fn fnv1(text: &str) -> u32 {
        text.bytes().fold(2_166_136_261, |hash: u32, byte| {
            hash.wrapping_mul(16_777_619) ^ u32::from(byte)
        })
    }

    #[test]
    fn fixed_keys_are_named() {
        let names = candidates("app", LockKey::Big(42_424_242_424_242));
        assert_eq!(names, ["mcp-context-forge bootstrap"]);
        let small = candidates("app", LockKey::Big(1));
        assert_eq!(small, ["Airflow migrations", "graph-node"]);
        assert!(candidates("app", LockKey::Big(7)).is_empty());
        assert_eq!(
            candidates("app", LockKey::Pair(16_185_446, 16_999)),
            ["pg_repack"]
        );
    }

    /// Values worked out apart from this code, with Python's zlib.crc32.
    #[test]
    fn computed_keys_depend_on_the_database() {
        for (key, name) in [
            (RAILS_APP, "Rails migrations"),
            (SQLX_APP, "sqlx migrations"),
            (GOLANG_MIGRATE_APP, "golang-migrate"),
            (GRAFANA_APP, "Grafana migrations"),
            (FLYWAY_DEFAULT, "Flyway"),
        ] {
            assert_eq!(candidates("app", LockKey::Big(key)), [name]);
        }
        assert!(candidates("other", LockKey::Big(RAILS_APP)).is_empty());
    }

    const RAILS_APP: i64 = 6_939_591_962_871_035_475;
    const SQLX_APP: i64 = 3_469_795_979_745_788_610;
    const GOLANG_MIGRATE_APP: i64 = 1_787_120_056;
    const GRAFANA_APP: i64 = 620_236_277;
    const FLYWAY_DEFAULT: i64 = 77_433_833_903_597;
}
