//! Goal: another program's migrations lose nothing silently. Method: the sqlite of Python, and the real Alembic.

use std::process::{Child, Stdio};

use litekeep_testkit::installed;
use litekeep_testkit::process::eventually;

use crate::scene::{LONG, Scene, Store};
use crate::shapes::matches;
use crate::{Place, Ran, rails};

use super::undo::replicate;

const FAMILY: &str = "
PRAGMA journal_mode=WAL;
CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id) ON DELETE CASCADE);
INSERT INTO parent VALUES(1, 'a'); INSERT INTO child VALUES(1, 1), (2, 1), (3, 1);
";

/// A rebuild in a transaction with foreign keys on, in which the pragma does nothing.
const REBUILD: &str = "import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for sql in ['PRAGMA foreign_keys=ON', 'BEGIN', 'PRAGMA foreign_keys=OFF', 'CREATE TABLE n(id INTEGER PRIMARY KEY, name TEXT)',
            'INSERT INTO n SELECT * FROM parent', 'DROP TABLE parent', 'ALTER TABLE n RENAME TO parent', 'COMMIT']:
    db.execute(sql)
print('said on stdout')
";

fn family(place: &Place) {
    rusqlite::Connection::open(place.path("app.db")).unwrap().execute_batch(FAMILY).unwrap();
    std::fs::write(place.path("rebuild.py"), REBUILD).unwrap();
    let add = REBUILD.replace("'DROP TABLE parent', 'ALTER TABLE n RENAME TO parent', ", "");
    std::fs::write(place.path("add.py"), add.replace("TABLE n(", "TABLE m(").replace("INTO n ", "INTO m "))
        .unwrap();
}

fn children(place: &Place) -> i64 {
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    app.query_row("SELECT count(*) FROM child", [], |row| row.get(0)).unwrap()
}

#[test]
fn what_a_program_would_lose_is_found_on_the_copy() {
    let place = Place::new();
    family(&place);
    let rehearsed = ["migrate", "up", "app.db", "--rehearse", "--command"];
    let run = |command: &str| place.run(&[&rehearsed[..], &[command]].concat());
    run("python3 rebuild.py {db}").failed_with(&[
        "on the copy",
        "`child` would have 0 rows instead of 3",
        "lost-rows",
        "untouched",
    ]);
    assert_eq!(children(&place), 3);
    run("python3 rebuild.py app.db").failed_with(&["the copy is as it was", "{db}"]);
    run("exit 3").failed_with(&["exit status: 3"]);
    let left = std::fs::read_dir(place.dir.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("rehearsal")), "the copy goes away");
}

#[test]
fn a_harmless_program_runs_and_its_words_are_no_result() {
    let place = Place::new();
    family(&place);
    let ran = place
        .run(&["migrate", "up", "app.db", "--json", "--rehearse", "--command", "python3 add.py {db}"])
        .succeeded();
    matches("migrate-command", &ran.json());
    assert_eq!(ran.json()["changed"], true);
    assert!(ran.stderr.contains("said on stdout"), "{}", ran.stderr);
    let path = "test \"$DATABASE_URL\" = \"sqlite:$LITEKEEP_DATABASE\" && test -f \"$LITEKEEP_DATABASE\"";
    let ran = place.run(&["migrate", "up", "app.db", "--json", "--command", path]).succeeded();
    assert_eq!(ran.json()["changed"], false);
    place
        .run(&["migrate", "up", "app.db", "--allow", "lost-rows", "--command", "python3 rebuild.py {db}"])
        .succeeded();
    assert_eq!(children(&place), 0, "allowed");
}

/// As a tool does that has no lock of its own: it looks what is done, and does the rest.
const LOOK_AND_MAKE: &str = "import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
if not db.execute(\"SELECT 1 FROM sqlite_schema WHERE name = 'made'\").fetchone():
    time.sleep(0.3)
    db.execute('CREATE TABLE made(x)')
";

fn start(place: &Place, command: &str, words: &str) -> Child {
    let mut litekeep = place.command(&["migrate", "up", "app.db", "--json", "--command", command]);
    litekeep.stdout(Stdio::piped()).stderr(std::fs::File::create(place.path(words)).unwrap()).spawn().unwrap()
}

fn changed(child: Child) -> bool {
    Ran::from(child.wait_with_output().unwrap()).succeeded().json()["changed"] == true
}

/// All of them looked before one had made anything, and all but one failed.
#[test]
fn of_programs_that_start_at_once_one_migrates_and_the_others_wait() {
    let place = Place::new();
    family(&place);
    std::fs::write(place.path("make.py"), LOOK_AND_MAKE).unwrap();
    let all: Vec<_> = (0..4).map(|nth| start(&place, "python3 make.py {db}", &format!("{nth}"))).collect();
    let all: Vec<_> = all.into_iter().map(changed).collect();
    assert_eq!(all.iter().filter(|changed| **changed).count(), 1, "{all:?}");
    assert!(!place.path(".app.db-litekeep").exists(), "nothing stays of a database without local state");

    // Who waits says for whom, and not for one that was killed.
    std::fs::create_dir(place.path(".app.db-litekeep")).unwrap();
    let turn = place.path(".app.db-litekeep/migrating");
    std::fs::write(&turn, "1234567890\n").unwrap();
    let first = start(&place, "while test -e app.db && ! test -e go; do sleep 0.05; done", "first");
    let whose = format!("{}\n", first.id());
    eventually("it has its turn", LONG, || Ok(std::fs::read_to_string(&turn)? == whose)).unwrap();
    let second = start(&place, "true", "second");
    let waits = [format!("process {} (", first.id()), "runs the migrations of `app.db`".to_owned()];
    let words = || std::fs::read_to_string(place.path("second")).unwrap();
    eventually("it says so", LONG, || Ok(waits.iter().all(|part| words().contains(part)))).unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    assert!(!changed(first) && !changed(second));
}

#[test]
fn harm_that_is_done_can_be_undone_from_the_backup() {
    let scene = Scene::new(Store::Folder, "");
    family(&scene.place);
    let litekeep = replicate(&scene);
    let ran = Ran::of(scene.command(&["migrate", "up", "app.db", "--command", "python3 rebuild.py {db}"]));
    ran.failed_with(&["`child` would have 0 rows instead of 3", "litekeep migrate undo app.db"]);
    scene.stop(litekeep).unwrap();
    assert_eq!(children(&scene.place), 0);
    Ran::of(scene.command(&["migrate", "undo", "app.db", "--yes"])).succeeded();
    assert_eq!(children(&scene.place), 3);
}

const ENV: &str = "
import os
from alembic import context
from sqlalchemy import create_engine, event
engine = create_engine(os.environ['DATABASE_URL'])
@event.listens_for(engine, 'connect')
def on(connection, record):
    connection.execute('PRAGMA foreign_keys=ON')
with engine.connect() as connection:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
";

const VERSION: &str = "
revision = '1'
down_revision = None
from alembic import op
import sqlalchemy as sa
def upgrade():
    with op.batch_alter_table('parent', recreate='always') as table:
        table.alter_column('name', nullable=False)
";

#[test]
fn alembic_loses_children_on_the_copy_only() {
    let place = Place::new();
    family(&place);
    std::fs::create_dir_all(place.path("alembic/versions")).unwrap();
    std::fs::write(place.path("alembic.ini"), "[alembic]\nscript_location = alembic\n").unwrap();
    std::fs::write(place.path("alembic/env.py"), ENV).unwrap();
    std::fs::write(place.path("alembic/versions/1.py"), VERSION).unwrap();
    let command = format!("{} upgrade head", installed::alembic().unwrap().display());
    let run = |arguments: &[&str]| {
        let mut litekeep =
            place.command(&[&["migrate", "up", "app.db", "--command", &command], arguments].concat());
        Ran::of({
            litekeep.env("DATABASE_URL", "sqlite:///app.db");
            litekeep
        })
    };
    run(&["--rehearse"]).failed_with(&["`child` would have 0 rows instead of 3"]);
    assert_eq!(children(&place), 3);
    std::fs::write(place.path("alembic/env.py"), ENV.replace("foreign_keys=ON", "foreign_keys=OFF")).unwrap();
    run(&["--rehearse"]).succeeded();
    assert_eq!(children(&place), 3);
    let version = "SELECT version_num FROM alembic_version";
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    assert_eq!(app.query_row(version, [], |row| row.get::<_, String>(0)).unwrap(), "1");
}

#[test]
fn kysely_loses_children_on_the_copy_only() {
    let place = Place::new();
    family(&place);
    let up = |foreign_keys: &str| {
        let program = installed::kysely().unwrap();
        let command = format!(
            "node {} {{db}} 'PRAGMA foreign_keys={foreign_keys}' 'CREATE TABLE n(id INTEGER PRIMARY KEY, name TEXT NOT NULL)' \
             'INSERT INTO n SELECT id, name FROM parent' 'DROP TABLE parent' 'ALTER TABLE n RENAME TO parent'",
            program.display()
        );
        place.run(&["migrate", "up", "app.db", "--rehearse", "--command", &command])
    };
    up("ON").failed_with(&["on the copy `child` would have 0 rows instead of 3"]);
    assert_eq!(children(&place), 3);
    up("OFF").succeeded();
    assert_eq!(children(&place), 3);
    // Where there is no database yet, the program makes it.
    place.run(&["migrate", "up", "new.db", "--rehearse", "--command", "cp app.db {db}"]).succeeded();
    assert!(place.path("new.db").exists());
}

const DJANGO: &str = "
import os, sys
from django.conf import settings
database = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': os.environ['LITEKEEP_DATABASE']}
settings.configure(INSTALLED_APPS=['family'], DATABASES={'default': database}, DEFAULT_AUTO_FIELD='django.db.models.AutoField')
from django.core.management import execute_from_command_line
execute_from_command_line(['manage.py', 'migrate', '--no-input', 'family', sys.argv[1]])
";

/// What `makemigrations` writes: the tables, then a column that becomes NOT NULL, for which Django makes the table anew.
const DJANGO_FILES: [(&str, &str, &str); 4] = [
    (
        "0001",
        "",
        "migrations.CreateModel('Parent', [('id', models.AutoField(primary_key=True)), ('name', models.TextField(null=True))]),
        migrations.CreateModel('Child', [('id', models.AutoField(primary_key=True)),
                                         ('parent', models.ForeignKey('family.Parent', models.CASCADE))])",
    ),
    (
        "0002",
        "0001",
        "migrations.RunSQL(\"INSERT INTO family_parent(id, name) VALUES(1, 'a'); \"
                          \"INSERT INTO family_child(parent_id) VALUES(1), (1), (1)\")",
    ),
    ("0003", "0002", "migrations.AlterField('Parent', 'name', models.TextField(default=''))"),
    ("0004", "0003", "migrations.RunSQL('DELETE FROM family_child')"),
];

#[test]
fn django_rebuilds_a_table_and_what_its_sql_deletes_is_found_on_the_copy() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("family/migrations")).unwrap();
    std::fs::write(place.path("family/__init__.py"), "").unwrap();
    std::fs::write(place.path("family/migrations/__init__.py"), "").unwrap();
    std::fs::write(place.path("manage.py"), DJANGO).unwrap();
    for (name, after, operations) in DJANGO_FILES {
        let after = if after.is_empty() { String::new() } else { format!("('family', '{after}')") };
        let file = format!(
            "from django.db import migrations, models\nclass Migration(migrations.Migration):\n    dependencies = [{after}]\n    \
             operations = [\n        {operations}\n    ]\n"
        );
        std::fs::write(place.path(&format!("family/migrations/{name}.py")), file).unwrap();
    }
    let python = installed::django().unwrap().join("bin/python");
    let up = |name: &str| {
        let command = format!("{} manage.py {name}", python.display());
        place.run(&["migrate", "up", "app.db", "--json", "--rehearse", "--command", &command])
    };
    let of = |sql: &str| -> String {
        let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
        app.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let children = "SELECT CAST(count(*) AS TEXT) FROM family_child";
    assert_eq!(up("0002").succeeded().json()["changed"], true);
    assert_eq!(up("0003").succeeded().json()["changed"], true);
    assert_eq!(of(children), "3");
    let made = of("SELECT sql FROM sqlite_schema WHERE name = 'family_parent'");
    assert!(made.contains("\"name\" text NOT NULL"), "{made}");
    up("0004").failed_with(&["`family_child` would have 0 rows instead of 3", "lost-rows"]);
    assert_eq!(of(children), "3");
    assert_eq!(of("SELECT max(name) FROM django_migrations WHERE app = 'family'"), "0003");
}

const KNEXFILE: &str = "module.exports = {
  client: 'better-sqlite3', useNullAsDefault: true, connection: { filename: process.env.LITEKEEP_DATABASE },
  migrations: { directory: './knex' },
};
";

/// A column that becomes NOT NULL, for which Knex makes the table anew; its driver has foreign keys on.
const BY_KNEX: &str = "exports.up = (knex) => knex.schema.alterTable('parent', (table) => { table.text('name').notNullable().alter(); });
exports.down = async () => {};
";

#[test]
fn knex_loses_children_on_the_copy_only() {
    let place = Place::new();
    family(&place);
    let (modules, driver) = installed::knex().unwrap();
    std::os::unix::fs::symlink(modules, place.path("node_modules")).unwrap();
    std::fs::create_dir(place.path("knex")).unwrap();
    std::fs::write(place.path("knexfile.js"), KNEXFILE).unwrap();
    let command = "node_modules/.bin/knex migrate:up";
    let up = |more: &str| {
        std::fs::write(place.path("knex/1_not_null.js"), format!("{BY_KNEX}{more}")).unwrap();
        let mut litekeep = place.command(&["migrate", "up", "app.db", "--rehearse", "--command", command]);
        litekeep.env("NODE_PATH", &driver);
        Ran::of(litekeep)
    };
    up("").failed_with(&["on the copy `child` would have 0 rows instead of 3"]);
    assert_eq!(children(&place), 3);
    // Outside of a transaction it switches them off.
    up("exports.config = { transaction: false };\n").succeeded();
    assert_eq!(children(&place), 3);
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    let ran: String =
        app.query_row("SELECT group_concat(name) FROM knex_migrations", [], |row| row.get(0)).unwrap();
    assert_eq!(ran, "1_not_null.js");
}

/// A column that becomes NOT NULL, for which Rails makes the table anew in a transaction with foreign keys on.
#[test]
fn rails_loses_children_on_the_copy_only() {
    let place = Place::new();
    family(&place);
    rails::application(&place, "development:\n  adapter: sqlite3\n  database: ../app.db\n");
    std::fs::create_dir_all(place.path("shop/db/migrate")).unwrap();
    let up = |head: &str, before: &str| {
        let file = format!(
            "class NotNull < ActiveRecord::Migration[6.1]\n{head}  def up\n{before}    change_column_null :parent, :name, false\n  end\nend\n"
        );
        std::fs::write(place.path("shop/db/migrate/1_not_null.rb"), file).unwrap();
        let command = "cd shop && bin/rails db:migrate";
        let mut litekeep = place.command(&["migrate", "up", "app.db", "--rehearse", "--command", command]);
        litekeep.env("DATABASE_URL", "sqlite3:app.db");
        Ran::of(litekeep)
    };
    up("", "").failed_with(&["on the copy `child` would have 0 rows instead of 3"]);
    assert_eq!(children(&place), 3);
    up("  disable_ddl_transaction!\n", "    execute 'PRAGMA foreign_keys = OFF'\n").succeeded();
    assert_eq!(children(&place), 3);
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    let ran: String = app.query_row("SELECT version FROM schema_migrations", [], |row| row.get(0)).unwrap();
    assert_eq!(ran, "1");
}
