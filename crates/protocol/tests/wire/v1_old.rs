//! The v1 types of 1.2.0.

pub(crate) use lib_v1 as lib;
pub(crate) use messages_v1::energy::EnergyQuanta;
pub(crate) use messages_v1::websocket as ws;

use crate::model::{Row, fixed_size};

pub(crate) fn row_list(rows: &[Row]) -> ws::BsatnRowList {
    let mut list = match fixed_size(rows) {
        Some(size) => ws::BsatnRowListBuilder::fixed(size),
        None => ws::BsatnRowListBuilder::row_offsets(),
    };
    rows.iter().for_each(|row| list.push(row));
    list.finish()
}

#[path = "v1_suite.rs"]
mod suite;

pub(crate) use suite::seeds;
