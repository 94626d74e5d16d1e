use super::*;

fn table() -> MirrorTable {
    let column = |name: &str, declared: &str| MirrorColumn {
        name: name.to_owned(),
        declared: declared.to_owned(),
        is_not_null: name != "v",
    };
    let columns = vec![column("a", "INTEGER"), column("b", "TEXT"), column("v", "TEXT")];
    MirrorTable {
        name: "t".to_owned(),
        columns,
        key: vec![1, 0],
        indexes: vec![("t_v".to_owned(), vec![2])],
        rules: MirrorRules::default(),
    }
}

fn mirror(sql: &str) -> (tempfile::TempDir, Mirror) {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(&dir.path().join("a.db"), "m", true).unwrap();
    mirror.connection.execute_batch(sql).unwrap();
    (dir, mirror)
}

fn row(a: i64, b: &str, v: &str) -> Vec<Value> {
    vec![Value::Integer(a), Value::Text(b.into()), Value::Text(v.into())]
}

fn key(row: &[Value]) -> Vec<Value> {
    vec![row[1].clone(), row[0].clone()]
}

#[test]
fn rows_and_how_far_it_is_are_committed_together() {
    let (_dir, mirror) = mirror("");
    let (table, first) = (table(), row(1, "x", "new"));
    assert!(mirror.items().unwrap().is_empty());
    for ends in [false, true] {
        mirror.begin(true).unwrap();
        mirror.make(&table).unwrap().unwrap();
        assert_eq!(mirror.put(&table, &first).unwrap(), Written::Rows(1));
        assert!(mirror.set("stage", Some("1")).unwrap());
        assert!(!mirror.set("stage", Some("2")).unwrap());
        if ends {
            mirror.commit().unwrap();
        }
        mirror.roll_back();
    }
    assert_eq!(mirror.items().unwrap(), BTreeMap::from([("stage".to_owned(), "2".to_owned())]));
    assert_eq!(mirror.row(&table, &key(&first)).unwrap(), Some(first.clone()));
    // As it is, it is not written again.
    assert_eq!(mirror.put(&table, &first).unwrap(), Written::Rows(0));
    let moved = [Some(Value::Integer(2)), None, None];
    assert_eq!(mirror.change(&table, &key(&first), &moved).unwrap(), Written::Rows(1));
    assert_eq!(mirror.row(&table, &key(&row(2, "x", ""))).unwrap(), Some(row(2, "x", "new")));
    mirror.make_indexes(&table).unwrap();
    mirror.make_indexes(&table).unwrap();
}

#[test]
fn a_table_can_be_with_some_of_its_columns() {
    let mut whole = table();
    whole.indexes.push(("t_a".to_owned(), vec![0]));
    whole.rules.unique = vec![1];
    whole.rules.defaults = BTreeMap::from([(0, "0".to_owned()), (2, "''".to_owned())]);
    let cut = whole.only(&[0, 1]);
    let names: Vec<&str> = cut.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!((names.as_slice(), cut.key.as_slice()), (&["a", "b"][..], &[1, 0][..]));
    assert_eq!(cut.indexes, [("t_a".to_owned(), vec![0])]);
    assert_eq!((cut.rules.unique.as_slice(), cut.rules.defaults.len()), (&[0][..], 1));
    // What was there with all of them loses the others.
    let (_dir, mirror) = mirror("");
    mirror.begin(true).unwrap();
    mirror.make(&whole).unwrap().unwrap();
    mirror.make_indexes(&whole).unwrap();
    mirror
        .connection
        .execute_batch("ALTER TABLE t ADD COLUMN mine; INSERT INTO t VALUES(1, 'x', 'v', 7)")
        .unwrap();
    mirror.drop_columns(&whole, &cut).unwrap();
    mirror.commit().unwrap();
    let left = mirror.columns_of("t").unwrap().0;
    assert_eq!(left.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b", "mine"]);
    assert_eq!(mirror.row(&cut, &key(&row(1, "x", ""))).unwrap(), Some(row(1, "x", "")[..2].to_vec()));
}

#[test]
fn what_is_not_noted_goes() {
    let (_dir, mirror) = mirror("");
    let table = table();
    mirror.begin(true).unwrap();
    mirror.make(&table).unwrap().unwrap();
    let rows: Vec<_> = (0..2500).map(|n| row(n, "x", "v")).collect();
    rows.iter().for_each(|row| assert_eq!(mirror.put(&table, row).unwrap(), Written::Rows(1)));
    mirror.commit().unwrap();
    mirror.begin_sweep(&table).unwrap();
    mirror.keep(&key(&rows[7])).unwrap();
    let plan = format!("EXPLAIN QUERY PLAN {}", table.unseen());
    let mut plan = mirror.connection.prepare(&plan).unwrap();
    let steps = plan.query_map([1], |row| row.get(3)).unwrap().collect::<Result<Vec<String>, _>>().unwrap();
    assert!(
        steps.iter().any(|step| step.contains("SEARCH s") && step.contains("k0=? AND k1=?")),
        "{steps:?}"
    );
    let mut swept = vec![];
    while swept.last() != Some(&0) {
        mirror.begin(true).unwrap();
        swept.push(mirror.sweep(&table).unwrap());
        mirror.commit().unwrap();
    }
    assert_eq!(swept, [1000, 1000, 499, 0]);
    assert_eq!(mirror.row(&table, &key(&rows[7])).unwrap().as_ref(), Some(&rows[7]));
}

#[test]
fn what_is_there_is_taken_only_where_it_fits() {
    let fits = "CREATE TABLE t(a INTEGER NOT NULL, b TEXT NOT NULL, v TEXT, more TEXT, PRIMARY KEY(a, b))";
    for (sql, why) in [
        (fits, None),
        ("CREATE TABLE T(A, B, V, PRIMARY KEY(B, A))", None),
        ("CREATE TABLE t(a, b, PRIMARY KEY(a, b))", Some("has no column `v`")),
        ("CREATE TABLE t(a, b, v, PRIMARY KEY(a))", Some("its primary key is not")),
        ("CREATE TABLE t(a, b, v, w NOT NULL, PRIMARY KEY(a, b))", Some("its column `w` wants a value")),
        ("CREATE TABLE t(a, b, v, PRIMARY KEY(a, b)); INSERT INTO t VALUES(1, 2, 3)", Some("has rows")),
    ] {
        let (_dir, mirror) = mirror(sql);
        let made = mirror.make(&table()).unwrap();
        match why {
            None => assert_eq!(made, Ok(()), "{sql}"),
            Some(why) => assert!(made.as_ref().is_err_and(|said| said.contains(why)), "{sql}: {made:?}"),
        }
    }
}

#[test]
fn nothing_is_written_to_a_file_that_has_lost_its_name() {
    let (dir, mirror) = mirror("");
    let path = dir.path().join("a.db");
    std::fs::rename(&path, dir.path().join("b.db")).unwrap();
    assert!(matches!(mirror.begin(true), Err(Error::Unavailable { .. })));
    std::fs::copy(dir.path().join("b.db"), &path).unwrap();
    assert!(matches!(mirror.begin(true), Err(Error::Unavailable { .. })));
}

#[test]
fn what_a_table_forbids_is_an_answer() {
    let (_dir, mirror) = mirror("CREATE TABLE t(a, b, v CHECK(v <> 'no'), PRIMARY KEY(b, a))");
    let table = table();
    mirror.begin(true).unwrap();
    assert!(
        matches!(mirror.put(&table, &row(1, "x", "no")).unwrap(), Written::Forbidden(why) if why.contains("CHECK"))
    );
    assert_eq!(mirror.put(&table, &row(1, "x", "yes")).unwrap(), Written::Rows(1));
    mirror.commit().unwrap();
}
