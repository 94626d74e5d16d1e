//! A database of MySQL or MariaDB taken whole into a file, once.

use litekeep_sync::transfer::Parts;
use litekeep_testkit::mysql::Flavor;
use rusqlite::Connection;

use crate::pull_scene::Scene;
use crate::server::server;

const SCHEMA: &str = "
    CREATE TABLE authors(id int PRIMARY KEY AUTO_INCREMENT, name varchar(20) NOT NULL DEFAULT 'nobody', born timestamp DEFAULT CURRENT_TIMESTAMP,
      seen datetime(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), email varchar(40), UNIQUE KEY email (email), KEY by_start (name(3)));
    CREATE TABLE books(isbn varchar(20) PRIMARY KEY, author int NOT NULL, next varchar(20), shelf int, place int,
      CONSTRAINT of_author FOREIGN KEY (author) REFERENCES authors(id) ON DELETE CASCADE, FOREIGN KEY (next) REFERENCES books(isbn) ON UPDATE SET NULL,
      UNIQUE KEY place (shelf, place), CHECK (shelf > 0));
    CREATE TABLE odd(id int PRIMARY KEY, i int DEFAULT -7, u bigint unsigned DEFAULT 18446744073709551615, r double DEFAULT 1.5, f float DEFAULT 0.1,
      d decimal(8,3) DEFAULT 1.5, whole decimal(5) DEFAULT 12, t varchar(30) DEFAULT 'it''s \\\\ \"x\" \\n ä', blank varchar(3) DEFAULT '', word varchar(9) DEFAULT 'NULL',
      e enum('a','b') DEFAULT 'b', s set('x','y') DEFAULT 'x,y', b bit(10) DEFAULT b'101', raw varbinary(9) DEFAULT 'ab', fixed binary(4) DEFAULT 'ab',
      day date DEFAULT '2026-02-03', at datetime(3) DEFAULT '2026-02-03 04:05:06.7', zoned timestamp DEFAULT '2026-02-03 04:05:06', took time(2) DEFAULT '10:11:12.5',
      y year DEFAULT 2026, yes boolean DEFAULT true, none int DEFAULT NULL, nothing int, computed varchar(40) DEFAULT (concat('a', 'b')));
    INSERT INTO authors(name, email) VALUES ('a', 'x'), ('b', NULL), ('c', NULL);
    INSERT INTO books VALUES ('b1', 1, NULL, 1, 7), ('b2', 3, 'b1', NULL, NULL), ('b3', 3, 'b1', NULL, NULL);";

#[test]
fn a_copy_has_the_rules_of_the_server() {
    let scene = Scene::new("once", SCHEMA);
    let mut pull = scene.pulling();
    let copied = scene.runtime.block_on(pull.copy_once(Parts::All, |_| ())).unwrap();
    let found = copied.found.unwrap();
    assert_eq!((found.rows, found.is_equal()), (6, true), "{found:?}");
    assert_eq!((&copied.failed[..], &copied.refused[..]), (&[][..], &[][..]));
    let notes: Vec<String> = copied.notes.iter().map(ToString::to_string).collect();
    let computed = match crate::FLAVOR {
        Flavor::Mariadb => "concat('a','b')",
        Flavor::Mysql => r"concat(_utf8mb4\'a\',_utf8mb4\'b\')",
    };
    assert_eq!(
        notes,
        [
            "authors.seen: is set to the present time by each change there, and not here".to_owned(),
            "authors: its index `by_start` is not one of whole columns, and left out".to_owned(),
            "books: its CHECK constraints are not translated".to_owned(),
            format!("odd.computed: its default `{computed}` is not translated"),
        ]
    );
    let db = Connection::open(scene.database()).unwrap();
    db.execute_batch("PRAGMA foreign_keys = 1; INSERT INTO authors(id) VALUES (NULL)").unwrap();
    let row = "SELECT id || name || (born GLOB '20??-??-??T??:??:??.000000Z') || (seen GLOB '20??-??-?? ??:??:??.???000') FROM authors WHERE id > 3";
    assert_eq!(db.query_row(row, (), |row| row.get::<_, String>(0)).unwrap(), "4nobody11");
    let refused = |sql: &str| db.execute_batch(sql).unwrap_err().to_string();
    assert!(refused("INSERT INTO books VALUES ('x', 20000, NULL, 1, 1)").contains("FOREIGN KEY"));
    assert!(refused("INSERT INTO books VALUES ('x', 1, NULL, 1, 7)").contains("UNIQUE"));
    assert!(refused("INSERT INTO authors(email) VALUES ('x')").contains("UNIQUE"));
    db.execute_batch("DELETE FROM books WHERE isbn <> 'b1'; DELETE FROM authors WHERE id = 1").unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM books", (), |row| row.get::<_, i64>(0)).unwrap(), 0);
    // What both give by themselves is the same.
    db.execute_batch("INSERT INTO odd(id) VALUES (1)").unwrap();
    server().query_in("once", "INSERT INTO odd(id) VALUES (1)").unwrap();
    let theirs = Scene::with_url(scene.url.clone());
    theirs.runtime.block_on(theirs.pulling_from(&scene.url, &["odd"]).copy_once(Parts::All, |_| ())).unwrap();
    let mut columns =
        db.prepare("SELECT name FROM pragma_table_info('odd') WHERE name <> 'computed'").unwrap();
    let columns: Vec<String> =
        columns.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let all: Vec<String> =
        columns.iter().map(|name| format!("quote(\"{name}\"), typeof(\"{name}\")")).collect();
    let all = format!("SELECT {} FROM odd", all.join(", "));
    for (nth, (ours, theirs)) in scene.rows(&all)[0].iter().zip(&theirs.rows(&all)[0]).enumerate() {
        assert_eq!(ours, theirs, "{}", columns[nth / 2]);
    }
}

/// Text that both sides compare otherwise, and a key to what is not unique.
#[test]
fn a_foreign_key_that_does_not_hold_here_is_told() {
    let sql = "CREATE TABLE people(id int PRIMARY KEY, name varchar(20) COLLATE utf8mb4_general_ci UNIQUE, town int, KEY (town));
               CREATE TABLE things(id int PRIMARY KEY, whose varchar(20) COLLATE utf8mb4_general_ci, FOREIGN KEY (whose) REFERENCES people(name));
               INSERT INTO people VALUES (1, 'Ann', 1), (2, 'Bob', 1); INSERT INTO things VALUES (1, 'ann'), (2, 'ANN'), (3, 'Bob'), (4, NULL)";
    let scene = Scene::new("dangling", sql);
    let any =
        "CREATE TABLE any_town(id int PRIMARY KEY, town int, FOREIGN KEY (town) REFERENCES people(town))";
    // MySQL has it only where it is told to.
    let loose = match crate::FLAVOR {
        Flavor::Mysql => "SET SESSION restrict_fk_on_non_standard_key = OFF;",
        Flavor::Mariadb => "",
    };
    server().query_in("dangling", &format!("{loose} {any}")).unwrap();
    let copied = scene.runtime.block_on(scene.pulling().copy_once(Parts::All, |_| ())).unwrap();
    assert_eq!(
        copied.failed,
        ["2 of the rows of `things` refer to no row of `people` as SQLite compares them"]
    );
    let notes: Vec<String> = copied.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes, ["any_town: its foreign key to `people` is to what is not unique, and left out"]);
    assert!(copied.found.unwrap().is_equal());
}

#[test]
fn whoever_may_only_read_can_copy() {
    let scene = Scene::new(
        "only_read",
        &format!(
            "{SCHEMA} CREATE USER IF NOT EXISTS copier IDENTIFIED BY 'r'; GRANT SELECT ON only_read.* TO copier"
        ),
    );
    let (scheme, rest) = scene.url.split_once("://").unwrap();
    let url = format!("{scheme}://copier:r@{}", rest.rsplit_once('@').unwrap().1);
    let copied = scene.runtime.block_on(scene.pulling_from(&url, &[]).copy_once(Parts::All, |_| ())).unwrap();
    assert!(copied.found.unwrap().is_equal());
    let keys = "SELECT '' || count(*) FROM pragma_foreign_key_list('books') WHERE \"table\" = 'authors' AND on_delete = 'CASCADE'";
    assert_eq!(scene.rows(keys), [[Some("1".to_owned())]]);
}
