//! What the caller's token says (`get_jwt`), from the row of `rtdb_claims`. The host would look for the token of a
//! connection that only one replica has.
//!
//! A call that belongs to a session finds what was kept when the session began. One without a session finds it in the row
//! of session 0, which was written just before it, and bears its index.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, MemoryId, Module};

use super::emit::{Code, Emit, I32, I64, function, global};
use super::given::Given;
use super::host::{self, Host, Imported};
use super::layout::*;
use super::state::Rows;
use super::window::Window;
use crate::claims::CLAIMS_BYTES_MAX;
use crate::header;
use crate::{PrepareError, abi};

/// What the numbers of our own sources begin with: the host counts up from 1.
const FIRST_SOURCE: i32 = i32::MIN;

/// The functions by which a module reads claims.
#[derive(Clone, Copy)]
pub(super) struct Jwt {
    host: Host,
    window: Window,
    rows: Rows,
    /// The module's memory.
    memory: MemoryId,
    /// The place for the row in the shim's memory.
    room: u32,
    /// Whether a replicated call is running.
    in_call: GlobalId,
    /// The source that is open, or 0, and the one that comes next.
    source: GlobalId,
    next_source: GlobalId,
    /// What it still has to give.
    claims: Given,
    /// What the source [`ROW`] has to give.
    row: Given,
    /// The sources of a request, if there are handlers of such.
    request: Option<[(i32, Given); 2]>,
}

/// The source of a row that is due, in the place of the call's arguments. Sources of claims don't come so far.
pub(super) const ROW: i32 = -1;

/// Adds a wrapper of a host function.
type Wrapper = fn(Jwt, &mut Module, FunctionId) -> FunctionId;

impl Jwt {
    pub(super) fn add(
        module: &mut Module,
        host: Host,
        window: Window,
        rows: Rows,
        layout: &Layout,
        in_call: GlobalId,
        row: Given,
    ) -> Self {
        let [source, next_source] = [(); 2].map(|()| global(module, I32));
        Self {
            host,
            window,
            rows,
            memory: window.seen.memory,
            room: layout.claims,
            in_call,
            source,
            next_source,
            claims: Given::add(module, window.own.memory),
            row,
            request: None,
        }
    }

    /// With these sources, too.
    pub(super) fn with_request(self, request: Option<[(i32, Given); 2]>) -> Self {
        Self { request, ..self }
    }

    /// Sources of ours whose numbers are always the same.
    fn fixed(self) -> impl Iterator<Item = (i32, Given)> {
        [(ROW, self.row)]
            .into_iter()
            .chain(self.request.into_iter().flatten())
    }

    /// A call begins.
    pub(super) fn begin(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.source);
        code.i32_const(FIRST_SOURCE).global_set(self.next_source);
        self.row.begin(code);
    }

    /// The module has run: its sources are closed.
    pub(super) fn end(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.source);
        for (_, given) in self.fixed() {
            given.begin(code);
        }
    }

    /// `identify(source)`: keeps the claims that are the argument, for the session and the index in the header.
    pub(super) fn add_identify(self, module: &mut Module, read: FunctionId) -> FunctionId {
        let Window { seen, own, .. } = self.window;
        function(module, [I32], &[], |code, [source], locals| {
            let len = locals.add(I32);
            self.window.mark(code, WINDOW_END);
            for (column, from) in [(0, header::SESSION_AT), (CLAIMS_INDEX, header::INDEX_AT)] {
                seen.set64(code, CLAIMS + column, |code| own.get64(code, HEADER + from));
            }
            code.local_get(source);
            seen.at(code, CLAIMS + CLAIMS_LEN);
            code.i32_const(4).call(read).local_set(source);
            seen.get32(code, CLAIMS + CLAIMS_LEN);
            code.local_tee(len)
                .i32_const(CLAIMS_BYTES_MAX as i32)
                .binop(BinaryOp::I32GtU)
                .trap_if();
            code.local_get(source);
            seen.at(code, CLAIMS + CLAIMS_TEXT);
            code.local_get(len).call(read).drop();
            code.local_get(len).plus(CLAIMS_TEXT);
            self.rows.put(code, CLAIMS_ROW);
        })
    }

    /// Puts a wrapper in the place of `import` if it has to do with claims, and says whether it has.
    pub(super) fn wrap(self, module: &mut Module, import: &Imported) -> Result<bool, PrepareError> {
        let (params, add): (usize, Wrapper) = match import.name.as_str() {
            "get_jwt" => (2, |jwt, module, _| jwt.add_get(module)),
            "bytes_source_read" => (3, Self::add_read),
            "bytes_source_remaining_length" => (2, Self::add_remaining),
            _ => return Ok(false),
        };
        host::wrap(module, import, params, |module, real| add(self, module, real))?;
        Ok(true)
    }

    /// `get_jwt(connection, out) -> errno`: a source, or 0 for none.
    fn add_get(self, module: &mut Module) -> FunctionId {
        let (own, memory) = (self.window.own, self.memory);
        let fetch = self.add_fetch(module);
        function(module, [I32, I32], &[I32], |code, [connection, out], locals| {
            let none = |code: &mut Code<'_>| {
                code.i32_const(0).return_();
            };
            code.local_get(out).i32_const(0).write32(memory, 0);
            code.global_get(self.in_call).is_zero().when(none);
            // Nobody else's: the host would tell, but its bindings don't ask.
            for word in [0, 8] {
                own.get64(code, HEADER + header::CONNECTION_AT + word);
                code.local_get(connection).read64(memory, word);
                code.binop(BinaryOp::I64Ne).when(none);
            }
            let session = locals.add(I64);
            own.get64(code, HEADER + header::SESSION_AT);
            code.i64_const(!header::NO_RECEIPT.cast_signed())
                .binop(BinaryOp::I64And);
            code.local_tee(session).call(fetch).is_zero().when(none);
            code.local_get(session).i64_const(0).binop(BinaryOp::I64Eq);
            own.get64(code, self.room + CLAIMS_INDEX);
            own.get64(code, HEADER + header::INDEX_AT);
            code.binop(BinaryOp::I64Ne).binop(BinaryOp::I32And).when(none);
            self.claims.set(
                code,
                |code| own.at(code, self.room + CLAIMS_TEXT),
                |code| own.get32(code, self.room + CLAIMS_LEN),
            );
            self.claims.left(code);
            code.is_zero().when(none);
            code.global_get(self.next_source).global_set(self.source);
            code.global_get(self.next_source)
                .plus(1)
                .global_set(self.next_source);
            code.local_get(out).global_get(self.source).write32(memory, 0);
            code.i32_const(0);
        })
    }

    /// `fetch(session) -> bytes`: the row of a session, 0 bytes if there is none.
    fn add_fetch(self, module: &mut Module) -> FunctionId {
        let Window { seen, own, .. } = self.window;
        function(module, [I64], &[I32], |code, [session], locals| {
            let bytes = locals.add(I32);
            self.window.borrow(code, CLAIMS_END, |code| {
                seen.at(code, BOUND);
                code.i32_const(0).write8(seen.memory);
                seen.set64(code, BOUND_KEY, |code| {
                    code.local_get(session);
                });
                own.get32(code, CLAIMS_ROW.index_id);
                seen.at(code, BOUND);
                code.i32_const(0).i32_const(0);
                for _ in 0..2 {
                    seen.at(code, BOUND);
                    code.i32_const(BOUND_BYTES as i32);
                }
                seen.at(code, OUT);
                code.call(self.host.scan_range).must();
                seen.at(code, LEN);
                code.i32_const((CLAIMS_END - CLAIMS) as i32)
                    .write32(seen.memory, 0);
                seen.get32(code, OUT);
                seen.at(code, CLAIMS);
                seen.at(code, LEN);
                code.call(self.host.advance)
                    .i32_const(abi::EXHAUSTED)
                    .binop(BinaryOp::I32Ne)
                    .trap_if();
                seen.get32(code, LEN);
                code.local_set(bytes);
                own.at(code, self.room);
                seen.at(code, CLAIMS);
                code.local_get(bytes).memory_copy(seen.memory, own.memory);
            });
            code.local_get(bytes);
        })
    }

    /// `bytes_source_read(source, buffer, len_at) -> result`.
    fn add_read(self, module: &mut Module, real: FunctionId) -> FunctionId {
        let memory = self.memory;
        function(
            module,
            [I32; 3],
            &[I32],
            |code, [source, buffer, len_at], locals| {
                let places = [buffer, len_at, locals.add(I32)];
                code.local_get(source)
                    .i32_const(0)
                    .binop(BinaryOp::I32GeS)
                    .when(|code| {
                        code.local_get(source)
                            .local_get(buffer)
                            .local_get(len_at)
                            .call(real)
                            .return_();
                    });
                self.when_fixed(code, source, |code, given| given.read(code, memory, places));
                self.must_be_open(code, source);
                self.claims.read(code, memory, places);
                self.claims.left(code);
                code.is_zero().when(|code| {
                    code.i32_const(0).global_set(self.source);
                });
            },
        )
    }

    /// `bytes_source_remaining_length(source, out) -> errno`.
    fn add_remaining(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [I32; 2], &[I32], |code, [source, out], _| {
            code.local_get(source)
                .i32_const(0)
                .binop(BinaryOp::I32GeS)
                .when(|code| {
                    code.local_get(source).local_get(out).call(real).return_();
                });
            self.when_fixed(code, source, |code, given| {
                given.tell_left(code, self.memory, out);
                code.i32_const(0);
            });
            self.must_be_open(code, source);
            self.claims.tell_left(code, self.memory, out);
            code.i32_const(0);
        })
    }

    /// Returns what `answer` pushes if the source is one of those, and open.
    fn when_fixed(self, code: &mut Code<'_>, source: walrus::LocalId, answer: impl Fn(&mut Code<'_>, Given)) {
        for (number, given) in self.fixed() {
            code.local_get(source).is(number);
            given.left(code);
            code.i32_const(0).binop(BinaryOp::I32Ne).binop(BinaryOp::I32And);
            code.when(|code| {
                answer(code, given);
                code.return_();
            });
        }
    }

    /// Returns to the module unless a source of ours is the one that is open.
    fn must_be_open(self, code: &mut Code<'_>, source: walrus::LocalId) {
        code.local_get(source)
            .global_get(self.source)
            .binop(BinaryOp::I32Ne)
            .when(|code| {
                code.i32_const(abi::NO_SUCH_BYTES).return_();
            });
    }
}
