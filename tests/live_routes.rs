//! Route tags as emitters write them, read by a real server; and the statements
//! that an incident gives to paste, run there.

use std::collections::BTreeSet;
use std::time::Duration;

use snowpit::config::{ChannelBinding, Dsn, PostgresConfig, SslMode};
use snowpit::demo::servers::{Postgres, PostgresOptions};
use snowpit::engine::incident::Cause;
use snowpit::engine::{Engine, Settings};
use snowpit::observe::postgres::PostgresSource;
use snowpit::sample::{Group, PostgresReport, Report, Sample};
use tokio_postgres::Client;

async fn server() -> Postgres {
    let options = PostgresOptions::default();
    Postgres::start(options).await.expect("PostgreSQL starts")
}

/// Sessions in a transaction, each showing one of the statements as its text.
async fn sessions(postgres: &Postgres, statements: &[String]) -> Vec<Client> {
    let mut clients = Vec::new();
    for statement in statements {
        let client = postgres.connect("postgres", "postgres").await;
        let client = client.expect("a session");
        client.batch_execute("BEGIN").await.expect("a transaction");
        let done = client.simple_query(statement).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        clients.push(client);
    }
    clients
}

async fn routes_seen(postgres: &Postgres, sessions: usize) -> Vec<String> {
    let mut source = PostgresSource::new(&PostgresConfig {
        name: "main".into(),
        connection: Dsn {
            host: "127.0.0.1".into(),
            port: postgres.port(),
            user: "postgres".into(),
            password: None,
            database: "postgres".into(),
            ssl_mode: SslMode::Prefer,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: ChannelBinding::Prefer,
            connect_timeout: Duration::from_secs(3),
        },
        interval: Duration::from_secs(1),
    });
    for _ in 0..50 {
        let report = source.look().await.expect("a look");
        let busy = |g: &&Group| g.state.as_deref() == Some("idle in transaction");
        let groups: Vec<&Group> = report.groups.iter().filter(busy).collect();
        if groups.iter().map(|g| g.count as usize).sum::<usize>() == sessions {
            return groups.iter().filter_map(|g| g.route.clone()).collect();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the sessions were never seen");
}

#[tokio::test]
async fn route_tags_of_every_emitter_are_read() {
    let postgres = server().await;
    let cut = format!("SELECT '{}' /*route='/cut/off'*/", "x".repeat(1000));
    // The text, and the route that it must give; one at a time.
    let cases = [
        // Python's emitter leaves the slash as it is; blanks and tabs stay.
        (
            "SELECT 1 /*route='GET /cnr/api/v1/packages'*/",
            Some("GET /cnr/api/v1/packages"),
        ),
        (
            "SELECT 1 /*route='/v2/%3Cname%3E/blobs'*/;",
            Some("/v2/<name>/blobs"),
        ),
        (
            "SELECT 1 /*db_driver='d',route='%%2Fa%%2Fb'*/",
            Some("/a/b"),
        ),
        (
            "SELECT 1/*controller='users',action='show'*/",
            Some("users#show"),
        ),
        (
            "/*controller='users',action='show'*/ SELECT 1",
            Some("users#show"),
        ),
        (
            "SELECT 1 /*action:index,controller:admin/users*/",
            Some("admin/users#index"),
        ),
        (
            "/* action:index, controller:users */ SELECT 1",
            Some("users#index"),
        ),
        (
            "/*route='/first'*/ SELECT 1 /*traceparent='00-1-1-01'*/",
            Some("/first"),
        ),
        (
            "/*traceparent='00-1-1-01'*/ SELECT 1 /*route='/last'*/",
            Some("/last"),
        ),
        (
            "SELECT '/*route=''/literal''*/' /*route='/true'*/",
            Some("/true"),
        ),
        ("SELECT '*/' /*route='/true'*/ ;\n", Some("/true")),
        (
            "/*route='/true'*/ SELECT '/*route=''/literal''*/'",
            Some("/true"),
        ),
        ("SELECT '/*route=''/literal''*/'", None),
        ("SELECT '/*route=''/literal''*/', 1", None),
        ("SELECT 1 -- /*route='/line'*/ not at the end", None),
        (cut.as_str(), None),
        ("SELECT 1 /*application='x'*/", None),
        ("SELECT 1 /*subroute='/x'*/", None),
    ];
    for (statement, expected) in cases {
        let clients = sessions(&postgres, &[statement.to_owned()]).await;
        let seen = routes_seen(&postgres, 1).await;
        let seen = seen.first().map(String::as_str);
        assert_eq!(seen, expected, "{statement}");
        drop(clients);
        routes_seen(&postgres, 0).await;
    }
}

/// The statements of the incident that a route of 40 sessions causes.
fn actions(route: &str) -> Vec<String> {
    let mut engine = Engine::new(Settings {
        targets: vec!["main".to_owned()],
        ..Settings::default()
    });
    let group = |route: &str, count| Group {
        application: Some("app".to_owned()),
        state: Some("active".to_owned()),
        route: Some(route.to_owned()),
        count,
        ..Group::default()
    };
    for second in 0..150 {
        let mut groups = vec![group("/a", 2), group("/b", 2)];
        if second > 140 {
            groups.push(group(route, 40));
        }
        engine.apply(Sample {
            t: f64::from(second),
            report: Report::Postgres(PostgresReport {
                target: "main".to_owned(),
                groups,
                ..PostgresReport::default()
            }),
        });
    }
    let open = engine.snapshot().open;
    assert_eq!(open[0].cause, Some(Cause::Endpoint), "{open:#?}");
    open[0].actions.clone()
}

fn encoded(text: &str) -> String {
    let code = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(code).collect()
}

#[tokio::test]
async fn statements_to_paste_touch_only_the_sessions_of_the_route() {
    let postgres = server().await;
    let odd = r#"GET /it's 100% \d+ "q" {id} [x] a.b (ü)?"#;
    let own = |tag: &str| format!("SELECT 1 /*application='app',{tag}*/");
    let cases = [
        (
            "users",
            vec![own("route='users'"), "SELECT 1/*route='users'*/".to_owned()],
        ),
        (
            "users#show",
            vec![
                own("controller='users',action='show'"),
                "/*action:show,controller:users*/ SELECT 1".to_owned(),
            ],
        ),
        (odd, vec![own(&format!("route='{}'", encoded(odd)))]),
        (
            "GET /a/{id}",
            vec![
                own("route='GET /a/{id}'"),
                own("route='GET+%2fa%%2F%7bid}'"),
            ],
        ),
    ];
    let bystanders = [
        "SELECT 1 WHERE 'users'='users'".to_owned(),
        "SELECT 1 AS name WHERE 'x'||''='users'".to_owned(),
        own("db_driver='users'"),
        own("route='users2'"),
        own("action='show',controller='users_admin'"),
        own("action='show_all',controller='users'"),
        "/*action:show_all,controller:users*/ SELECT 1".to_owned(),
        own("route='GET /a/{id}/b'"),
        own("route='GET /axb'"),
    ];
    for (route, mut statements) in cases {
        let own: BTreeSet<String> = statements.iter().cloned().collect();
        statements.extend(bystanders.iter().cloned());
        let clients = sessions(&postgres, &statements).await;
        let console = postgres.connect("postgres", "postgres").await.unwrap();
        let actions = actions(route);
        // The text of a session follows its answer by a moment.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let look = actions[0].replace("left(query, 80)", "query");
        let rows = console.query(look.as_str(), &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{look}: {error:?}"));
        let touched: BTreeSet<String> = rows.iter().map(|row| row.get("query")).collect();
        assert_eq!(touched, own, "{route}\n{look}");
        console.batch_execute(&actions[1]).await.expect("a cancel");
        drop(clients);
        routes_seen(&postgres, 0).await;
    }
}
