//! Calling what every replica calls of a prepared module, whatever the module is: its set-up, and the hidden reducers.
//! What fails here would fail on every node.

use wasmi::{Error, Val};

use super::host::{SINK, SOURCE};
use super::{FUEL_MAX, Limits, MEMORY_BYTES_MAX, Sandbox};
use crate::abi;
use crate::header::CallHeader;
use crate::hidden::{self, SESSION, STATE};
use crate::plan::Plan;
use crate::procedures::{TransactionVerdict, replay_args, settle_args};
use crate::rows;
use crate::timers::{Firing, encode_timer};
use crate::{IMMEDIATE_SCHEDULE, PrepareError};

/// What a prepared module may take: it marks what it writes, and has a copy of its memory behind a map of it.
const PREPARED: Limits = Limits {
    fuel: 3 * FUEL_MAX,
    memory_bytes: MEMORY_BYTES_MAX + 16 * 1024 * 1024,
    memories: abi::PREPARED_MEMORIES,
};

/// The session that the calls are made in.
const A_SESSION: u64 = 1;

/// Runs a prepared module's hidden parts, or says what is wrong with them.
pub(crate) fn run(wasm: &[u8], plan: &Plan) -> Result<(), PrepareError> {
    let failed = |error: Error| PrepareError::Trial(error.to_string());
    let mut sandbox = Sandbox::start(wasm, PREPARED)?.map_err(failed)?;
    if sandbox.store.data_mut().take_sink() != plan.def {
        return Err(PrepareError::Trial(
            "it does not describe itself in the same way again".into(),
        ));
    }
    let [mark, disconnect, scheduled, unscheduled, apply, replay, settle] =
        [0, 1, 4, 5, 6, 8, 9].map(|hidden| plan.reducers + hidden);
    let tables = plan.tables.iter().map(|table| table.name.as_str());
    let indexes = plan.tables.iter().flat_map(|table| &table.order.indexes);
    let indexes = indexes.map(|index| index.name.as_str());
    let hidden = hidden::TABLES.into_iter().chain(hidden::TABLES_SINCE_10);
    let hidden: Vec<_> = hidden.collect();
    sandbox.store.data_mut().name(&hidden, tables, indexes);

    sandbox.call(mark, 1, &[1]).map_err(failed)?;
    sandbox.expect(1, true)?;
    sandbox.call(disconnect, 2, &[]).map_err(failed)?;
    sandbox.expect(2, false)?;
    let nothing = rows::encode_changes::<&[u8]>(&[]);
    sandbox.call(apply, 3, &nothing).map_err(failed)?;
    sandbox.expect(3, true)?;
    let mut index = 3;
    let immediate = plan.immediate.then_some(IMMEDIATE_SCHEDULE);
    let schedules = (0..plan.own_schedules()).chain(immediate);
    for schedule in schedules.clone() {
        let row = encode_timer(Firing::ByTime, schedule, 0, None);
        for reducer in [scheduled, unscheduled] {
            index += 1;
            sandbox.call(reducer, index, &row).map_err(failed)?;
            sandbox.expect(index, true)?;
        }
    }
    if plan.runs_procedures() {
        let nothing = replay_args(index, &[]);
        sandbox.call(replay, index + 1, &nothing).map_err(failed)?;
        sandbox.expect(index + 1, true)?;
        for verdict in [TransactionVerdict::Committed, TransactionVerdict::Over] {
            let told = settle_args(1, 1, verdict);
            sandbox.call(settle, 0, &told).map_err(failed)?;
        }
        for schedule in schedules {
            let row = encode_timer(Firing::ByTime, schedule, 0, None);
            let tick = sandbox.enter(abi::CALL_PROCEDURE, plan.procedures, 0, &row);
            tick.map_err(failed)?;
        }
    }
    Ok(())
}

impl Sandbox {
    fn call(&mut self, reducer: u32, index: u64, own: &[u8]) -> Result<(), Error> {
        self.enter(abi::CALL_REDUCER, reducer, index, own)
    }

    fn enter(&mut self, export: &str, id: u32, index: u64, own: &[u8]) -> Result<(), Error> {
        let header = CallHeader {
            index,
            session: A_SESSION,
            ..CallHeader::default()
        };
        let args = [header.encode().as_slice(), own].concat();
        self.store.data_mut().set_call(Some(args));
        let call = self
            .instance
            .get_func(&self.store, export)
            .ok_or_else(|| Error::new(format!("there is no `{export}`")))?;
        let mut params = vec![Val::I32(id.cast_signed())];
        params.extend([0; 7].map(Val::I64));
        params.extend([SOURCE, SINK].map(|handle| Val::I32(handle.cast_signed())));
        let mut results = [Val::I32(0)];
        call.call(&mut self.store, &params, &mut results)?;
        let message = self.store.data_mut().take_sink();
        self.store.data_mut().set_call(None);
        match results[0] {
            Val::I32(0) => Ok(()),
            _ => Err(Error::new(String::from_utf8_lossy(&message).into_owned())),
        }
    }

    /// Checks what the calls have left: their index, and a receipt or none.
    fn expect(&self, index: u64, receipt: bool) -> Result<(), PrepareError> {
        let host = self.store.data();
        let applied = host.row(&STATE).and_then(|row| row.get(1..)?.first_chunk());
        let is_applied = applied.copied().map(u64::from_le_bytes) == Some(index);
        match is_applied && host.row(&SESSION).is_some() == receipt {
            true => Ok(()),
            false => Err(PrepareError::Trial("it does not record what it has done".into())),
        }
    }
}
