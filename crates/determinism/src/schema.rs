//! What `GET /schema` says of a prepared module, turned back into what it would say of the original.

use serde_json::{Value, json};

use crate::header;
use crate::module::{Module, ReducerKind, Table};
use crate::plan::RawSequence;
use crate::{HIDDEN_PREFIX, hidden};

/// Undoes the preparation in what `GET /schema?version=9` (or 10) of a local server says: hidden tables, reducers,
/// types and parameters go; sequences, schedules and lifecycle marks come back.
pub fn original_schema(mut server: Value, module: &Module) -> Value {
    match server.get_mut("sections").and_then(Value::as_array_mut) {
        Some(sections) => {
            sections
                .iter_mut()
                .for_each(|section| restore_section(section, module));
            if module.procedures().is_empty() {
                sections.retain(|section| section.get("Procedures").is_none());
            }
            sections.extend(marks(module));
        }
        None => restore_v9(&mut server, module),
    }
    server
}

fn restore_v9(schema: &mut Value, module: &Module) {
    truncate_types(&mut schema["typespace"]["types"], module);
    remove_hidden_types(&mut schema["types"]);
    restore_tables(&mut schema["tables"], module);
    for table in items(&mut schema["tables"]) {
        let schedule = module
            .schedules()
            .iter()
            .find(|schedule| table["name"] == schedule.table.as_str());
        if let Some(schedule) = schedule {
            table["schedule"] = some(json!({
                "name": some(format!("{}_sched", schedule.table).into()),
                "reducer_name": schedule.function,
                "scheduled_at_column": schedule.at_column,
            }));
        }
    }
    restore_functions(&mut schema["reducers"]);
    retain(&mut schema["misc_exports"], |export| {
        !is_hidden(&export["Procedure"]["name"])
    });
    for procedure in items(&mut schema["misc_exports"]).filter_map(|export| export.get_mut("Procedure")) {
        restore_params(procedure);
    }
    for reducer in items(&mut schema["reducers"]) {
        let kind = reducer["name"]
            .as_str()
            .and_then(|name| module.reducer(name))
            .map(|reducer| reducer.kind);
        if let Some(lifecycle) = kind.and_then(lifecycle) {
            reducer["lifecycle"] = some(lifecycle);
        }
    }
}

fn restore_section(section: &mut Value, module: &Module) {
    let Some((kind, contents)) = section
        .as_object_mut()
        .and_then(|section| section.iter_mut().next())
    else {
        return;
    };
    match kind.as_str() {
        "Typespace" => truncate_types(&mut contents["types"], module),
        "Types" => remove_hidden_types(contents),
        "Tables" => restore_tables(contents, module),
        "Reducers" => restore_functions(contents),
        "Procedures" => restore_functions(contents),
        "ExplicitNames" => retain(&mut contents["entries"], |entry| {
            let mapping = entry.as_object().and_then(|entry| entry.values().next());
            !mapping.is_some_and(|mapping| is_hidden(&mapping["canonical_name"]))
        }),
        _ => {}
    }
}

/// The sections that version 10 keeps apart from tables and reducers.
fn marks(module: &Module) -> Vec<Value> {
    let schedules = module.schedules().iter().map(|schedule| {
        json!({
            "source_name": some(format!("{}_sched", schedule.table).into()),
            "table_name": schedule.table,
            "schedule_at_col": schedule.at_column,
            "function_name": schedule.function,
        })
    });
    let lifecycles = module.reducers().iter().filter_map(|reducer| {
        Some(json!({ "lifecycle_spec": lifecycle(reducer.kind)?, "function_name": reducer.name }))
    });
    let sections: [(_, Vec<_>); 2] = [
        ("Schedules", schedules.collect()),
        ("LifeCycleReducers", lifecycles.collect()),
    ];
    sections
        .into_iter()
        .filter(|(_, marks)| !marks.is_empty())
        .map(|(kind, marks)| json!({ kind: marks }))
        .collect()
}

/// The hidden row types stand behind the module's own.
fn truncate_types(types: &mut Value, module: &Module) {
    if let Some(types) = types.as_array_mut() {
        types.truncate(module.typespace().types.len());
    }
}

fn remove_hidden_types(types: &mut Value) {
    retain(types, |ty| {
        let name = name_of(ty).and_then(|name| name_of(name).or(Some(name)));
        let hidden = hidden::TABLES.into_iter().chain(hidden::TABLES_SINCE_10);
        let mut hidden = hidden.chain([&hidden::IMMEDIATE]);
        !hidden.any(|table| name.and_then(Value::as_str) == Some(table.type_name))
    });
}

fn restore_tables(tables: &mut Value, module: &Module) {
    retain(tables, |table| !name_of(table).is_some_and(is_hidden));
    for json in items(tables) {
        let name = name_of(json).and_then(Value::as_str).unwrap_or_default();
        let Some(table) = module
            .tables()
            .iter()
            .find(|it| it.name == name || it.source_name == name)
        else {
            continue;
        };
        let name_key = if json.get("name").is_some() {
            "name"
        } else {
            "source_name"
        };
        let mut sequences: Vec<_> = table
            .sequences
            .iter()
            .map(|it| (sequence_name(table, it, module), it))
            .collect();
        sequences.sort_by(|a, b| a.0.cmp(&b.0));
        let sequences = sequences.into_iter().map(|(name, sequence)| {
            json!({
                name_key: some(name.into()),
                "column": sequence.column,
                "start": option(sequence.start),
                "min_value": option(sequence.min),
                "max_value": option(sequence.max),
                "increment": sequence.increment as i64,
            })
        });
        json["sequences"] = sequences.collect();
    }
}

/// The name that the server gives to a sequence.
fn sequence_name(table: &Table, sequence: &RawSequence, module: &Module) -> String {
    let row = module.typespace().get(table.row).and_then(|row| row.as_product());
    let column = row
        .and_then(|row| row.elements.get(usize::from(sequence.column)))
        .and_then(|column| column.name());
    format!(
        "{}_{}_seq",
        table.name,
        column.map_or_else(|| sequence.column.to_string(), ToString::to_string)
    )
}

fn restore_functions(functions: &mut Value) {
    retain(functions, |function| !name_of(function).is_some_and(is_hidden));
    items(functions).for_each(restore_params);
}

fn restore_params(function: &mut Value) {
    if let Some(params) = function["params"]["elements"].as_array_mut() {
        params.drain(..header::params().len().min(params.len()));
    }
}

fn lifecycle(kind: ReducerKind) -> Option<Value> {
    Some(match kind {
        ReducerKind::Init => json!({ "Init": [] }),
        ReducerKind::ClientConnected => json!({ "OnConnect": [] }),
        ReducerKind::ClientDisconnected => json!({ "OnDisconnect": [] }),
        ReducerKind::Normal | ReducerKind::Scheduled => return None,
    })
}

fn name_of(item: &Value) -> Option<&Value> {
    item.get("name").or_else(|| item.get("source_name"))
}

fn is_hidden(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.starts_with(HIDDEN_PREFIX))
}

fn some(value: Value) -> Value {
    json!({ "some": value })
}

fn option(value: Option<i128>) -> Value {
    value.map_or_else(|| json!({ "none": [] }), |value| some((value as i64).into()))
}

fn retain(list: &mut Value, keep: impl FnMut(&Value) -> bool) {
    if let Some(list) = list.as_array_mut() {
        list.retain(keep);
    }
}

fn items(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    list.as_array_mut().into_iter().flatten()
}
