# One slow migration through the real ActiveRecord migrator, which holds its
# advisory lock meanwhile. The connection comes from the environment.
require "active_record"

ActiveRecord::Base.logger = nil
ActiveRecord::Migration.verbose = false
ActiveRecord::Base.establish_connection(
  adapter: "postgresql", host: ENV.fetch("PGHOST"), port: ENV.fetch("PGPORT"),
  username: ENV.fetch("PGUSER"), database: ENV.fetch("PGDATABASE")
)

class Slow < ActiveRecord::Migration[6.0]
  def up
    execute "SELECT pg_sleep(60)"
  end
end

schema = ActiveRecord::Base.connection.schema_migration
migration = Slow.new("Slow", 20_231_114_000_000)
ActiveRecord::Migrator.new(:up, [migration], schema).migrate
