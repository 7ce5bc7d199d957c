use super::*;
use rtdb_protocol::sql::{self, Language, Statement};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{RawModuleDefV9Builder, TableAccess};
use spacetimedb_sats::{ProductType, SumType, bsatn};

fn module() -> Module {
    let mut def = RawModuleDefV9Builder::new();
    let row = ProductType::from([("id", AlgebraicType::U32), ("name", AlgebraicType::String)]);
    def.build_table_with_new_type("player", row, true).finish();
    let choice = SumType::from([("A", AlgebraicType::unit()), ("B", AlgebraicType::U8)]);
    let row = ProductType::from([("id", AlgebraicType::U32), ("choice", choice.into())]);
    def.build_table_with_new_type("secret", row, false)
        .with_access(TableAccess::Private)
        .finish();
    let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).expect("a definition");
    Module::from_def(&def).expect("a module")
}

/// What the statement is read as: the table's place, and what is done.
fn read_text(text: &str, is_owner: bool) -> Result<(u32, WriteKind), String> {
    let Ok(Statement::Write(write)) = sql::parse(text, Language::Sql) else {
        panic!("{text} writes nothing");
    };
    let module = module();
    let typed = read(&module, &write, is_owner).map_err(|error| error.to_string())?;
    Ok((typed.place, typed.kind))
}

#[test]
fn a_statement_is_read_for_the_tables_types() {
    let rows = [(1_u32, "ann".to_owned()), (2, "5".to_owned())];
    let rows = rows
        .map(|row| bsatn::to_vec(&row).expect("a row").into())
        .to_vec();
    // Of the columns only the number counts, as natively.
    assert_eq!(
        read_text("INSERT INTO player (x, y) VALUES (1, 'ann'), (2, 5)", false),
        Ok((0, WriteKind::Insert(InsertRows { rows })))
    );
    let assignments = vec![Assignment {
        column: 0,
        value: vec![7, 0, 0, 0].into(),
    }];
    let query = "SELECT * FROM secret WHERE id = 1".to_owned();
    assert_eq!(
        read_text("UPDATE secret SET id = 7 WHERE id = 1", true),
        Ok((1, WriteKind::Update(UpdateRows { query, assignments })))
    );
    let query = "SELECT * FROM \"player\"".to_owned();
    assert_eq!(
        read_text("DELETE FROM \"player\"", false),
        Ok((0, WriteKind::Delete(DeleteRows { query })))
    );
}

#[test]
fn what_does_not_fit_is_refused_in_spacetimedbs_words() {
    for (text, is_owner, words) in [
        ("DELETE FROM secret", false, "no such table: `secret`"),
        ("DELETE FROM Player", true, "no such table: `Player`"),
        ("DELETE FROM rtdb_state", true, "no such table: `rtdb_state`"),
        (
            "UPDATE st_table SET table_name = 'x'",
            true,
            "no such table: `st_table`",
        ),
        (
            "UPDATE player SET age = 1",
            true,
            "`player` does not have a field `age`",
        ),
        (
            "UPDATE player SET id = 'x'",
            true,
            "Unexpected type: (expected) String != U32 (inferred)",
        ),
        (
            "INSERT INTO player VALUES (1, 'x')",
            true,
            "The number of fields (0) in the INSERT does not match the number of columns (2) of the table `player`",
        ),
        (
            "INSERT INTO player (id, name) VALUES (1, 'x', 2)",
            true,
            "Inserting a row with 3 values into `player` which has 2 fields",
        ),
        (
            "INSERT INTO secret (id, choice) VALUES (1, 0)",
            true,
            "The literal expression `0` cannot be parsed as type `(A: () | B: U8)`",
        ),
    ] {
        assert_eq!(read_text(text, is_owner), Err(words.to_owned()), "{text}");
    }
}
