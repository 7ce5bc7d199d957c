;; A module that looks where it should not: a test gives the body of its reducer `act`. What that puts down with `note`
;; becomes a row of `seen`, behind the time of the call. The reducer `fill` puts forty rows into a table without a unique
;; index, and as many into `keyed`.
(module
  (import "spacetime_10.0" "table_id_from_name" (func $table_id (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "index_id_from_name" (func $index_id (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_insert_bsatn" (func $insert (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_table_scan_bsatn" (func $scan (param i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_table_row_count" (func $count (param i32 i32) (result i32)))
  (import "spacetime_10.4" "datastore_index_scan_point_bsatn" (func $point (param i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.4" "datastore_delete_by_index_scan_point_bsatn"
    (func $delete (param i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "row_iter_bsatn_advance" (func $advance (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "row_iter_bsatn_close" (func $close (param i32) (result i32)))
  (import "spacetime_10.0" "console_timer_start" (func $timer (param i32 i32) (result i32)))
  (import "spacetime_10.0" "console_timer_end" (func $timer_end (param i32) (result i32)))
  (memory (export "memory") 8)
  ;; 8: ids and handles. 12: lengths. 256: the row of `seen`, of the length at 256. 0x8000: a buffer.
  (data (i32.const 16) "{LOOSE}")
  (data (i32.const 32) "keyed")
  (data (i32.const 40) "seen")
  (data (i32.const 48) "by_key")
  (data (i32.const 56) "st_client")
  (data (i32.const 72) "rtdb_session")
  (data (i32.const 0x40000) "{DEF}")

  (func (export "__describe_module__") (param $sink i32)
    (i32.store (i32.const 12) (i32.const {LEN}))
    (drop (call $write (local.get $sink) (i32.const 0x40000) (i32.const 12))))

  (func $must (param i32) (if (local.get 0) (then (unreachable))))

  (func $loose (result i32)
    (call $must (call $table_id (i32.const 16) (i32.const {LOOSE_LEN}) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $keyed (result i32)
    (call $must (call $table_id (i32.const 32) (i32.const 5) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $by_key (result i32)
    (call $must (call $index_id (i32.const 48) (i32.const 6) (i32.const 8)))
    (i32.load (i32.const 8)))

  (func $note (param $value i32)
    (i32.store (i32.add (i32.const 260) (i32.load (i32.const 256))) (local.get $value))
    (i32.store (i32.const 256) (i32.add (i32.load (i32.const 256)) (i32.const 4))))

  ;; Reads into a buffer of so many bytes.
  (func $read (param $handle i32) (param $room i32) (result i32)
    (i32.store (i32.const 12) (local.get $room))
    (call $advance (local.get $handle) (i32.const 0x8000) (i32.const 12)))

  ;; The handles of the call under way.
  (global $source (mut i32) (i32.const 0))
  (global $sink (mut i32) (i32.const 0))

  (func $act (local $n i32) (local $handle i32)
    {BODY})

  (func (export "__call_reducer__")
    (param $id i32) (param i64 i64 i64 i64 i64 i64) (param $time i64) (param $source i32) (param $sink i32) (result i32)
    (local $n i32)
    (if (i32.eqz (local.get $id))
      (then
        (loop $more
          ;; (7, n and zeros, up to 49 of them)
          (i32.store (i32.const 128) (i32.const 7))
          (i32.store (i32.const 132) (i32.add (i32.const 4) (i32.rem_u (i32.mul (local.get $n) (i32.const 7)) (i32.const 50))))
          (i32.store (i32.const 136) (i32.add (i32.const 1) (local.get $n)))
          (i32.store (i32.const 12) (i32.add (i32.const 8) (i32.load (i32.const 132))))
          (call $must (call $insert (call $loose) (i32.const 128) (i32.const 12)))
          ;; (n, n + 1)
          (i32.store (i32.const 128) (local.get $n))
          (i64.store (i32.const 132) (i64.extend_i32_u (i32.add (i32.const 1) (local.get $n))))
          (i32.store (i32.const 12) (i32.const 12))
          (call $must (call $insert (call $keyed) (i32.const 128) (i32.const 12)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 40))))
        (return (i32.const 0))))
    (i32.store (i32.const 256) (i32.const 4))
    (i32.store (i32.const 260) (i32.wrap_i64 (local.get $time)))
    (global.set $source (local.get $source))
    (global.set $sink (local.get $sink))
    (call $act)
    (i32.store (i32.const 12) (i32.add (i32.load (i32.const 256)) (i32.const 4)))
    (call $must (call $table_id (i32.const 40) (i32.const 4) (i32.const 8)))
    (call $must (call $insert (i32.load (i32.const 8)) (i32.const 256) (i32.const 12)))
    (i32.const 0)))
