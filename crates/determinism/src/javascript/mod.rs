//! JavaScript modules, as SpacetimeDB 2.x runs them in V8: what could be put around them, for tests alone. The product refuses
//! such modules; `docs/javascript-modules.md` says why.

mod tests;

use std::fmt::Write as _;

use crate::SKIPPED;
use crate::hidden::{CLAIMS, SEQUENCE, SESSION, STATE};
use crate::order::{Part, Sorting};
use crate::plan::{Plan, Sequence, Step, TablePlan};
use crate::shape::Shape;

const SHIM: &str = include_str!("shim.js");

/// A module in CommonJS, with the shim around it: an ES module for the server.
fn prepare(bundle: &str, plan: &Plan) -> String {
    format!(
        "const PLAN = {};\nconst BUNDLE = {};\n{SHIM}",
        describe(plan),
        serde_json::Value::from(bundle)
    )
}

/// A plan as a literal.
fn describe(plan: &Plan) -> String {
    let hidden = [
        ("state", STATE),
        ("session", SESSION),
        ("sequence", SEQUENCE),
        ("claims", CLAIMS),
    ];
    let hidden =
        hidden.map(|(key, table)| format!("{key}:{{name:{:?},index:{:?}}}", table.name, table.index));
    format!(
        "{{def:{:?},reducers:{},init:{},clientDisconnected:{},skipped:{SKIPPED:?},hidden:{{{}}},tables:{}}}",
        plan.def,
        plan.reducers,
        or_null(plan.init),
        or_null(plan.client_disconnected),
        hidden.join(","),
        list(&plan.tables, table)
    )
}

fn table(table: &TablePlan) -> String {
    let indexes = list(&table.order.indexes, |index| {
        format!(
            "{{name:{},sorting:{}}}",
            text(&index.name),
            sorting(index.sorting.as_ref())
        )
    });
    format!(
        "{{name:{},steps:{},order:{{index:{},scan:{},indexes:{indexes}}}}}",
        text(&table.name),
        list(&table.steps, step),
        or_null(table.order.index),
        sorting(table.order.scan.as_ref())
    )
}

fn step(step: &Step) -> String {
    match step {
        Step::Skip(of) => format!("['skip',{}]", shape(of)),
        Step::Generate(of) => format!("['generate',{}]", sequence(of)),
    }
}

fn sequence(of: &Sequence) -> String {
    let Sequence {
        key,
        former_key,
        index,
        bytes,
        start,
        increment,
        last,
        wrap,
        tries,
    } = of;
    format!(
        "{{key:{key}n,formerKey:{former_key}n,index:{},bytes:{bytes},start:{start}n,increment:{increment}n,\
         last:{last}n,wrap:{wrap}n,tries:{tries}}}",
        or_null(*index)
    )
}

fn sorting(sorting: Option<&Sorting>) -> String {
    sorting.map_or_else(
        || "null".into(),
        |Sorting(parts)| {
            list(parts, |part| match part {
                Part::Other(of) => format!("['other',{}]", shape(of)),
                Part::Key(of) => format!("['key',{}]", shape(of)),
                Part::Float(bytes) => format!("['float',{bytes}]"),
            })
        },
    )
}

fn shape(of: &Shape) -> String {
    match of {
        Shape::Fixed(bytes) => format!("['fixed',{bytes}]"),
        Shape::Counted(bytes) => format!("['counted',{bytes}]"),
        Shape::Array(element) => format!("['array',{}]", shape(element)),
        Shape::Product(parts) => format!("['product',{}]", list(parts, shape)),
        Shape::Sum(variants) => format!("['sum',{}]", list(variants, shape)),
    }
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn or_null(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "null".into(), |number| number.to_string())
}

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    let mut all = String::from("[");
    for item in items {
        write!(all, "{},", show(item)).expect("a text takes everything");
    }
    all.push(']');
    all
}
