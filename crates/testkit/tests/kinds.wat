;; A module that reads all of its tables in every way. Arguments: a length, `buffer: u32, count: u32`, then `count` times
;; `what: u8, table: u8, len: u32, bytes`. What: 0 inserts a row, 1 deletes rows, 2 updates by the first index, 3 walks the
;; first index for a key, 4 from that on; the bytes of the last two are a bound. Before this it opens a scan of each table,
;; and reads it after. What it sees becomes hashes, one behind the other, in a row of `seen`.
(module
  (import "spacetime_10.0" "table_id_from_name" (func $table_id (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "index_id_from_name" (func $index_id (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "bytes_source_read" (func $read (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_insert_bsatn" (func $insert (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_update_bsatn" (func $update (param i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_delete_all_by_eq_bsatn" (func $delete (param i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_table_scan_bsatn" (func $scan (param i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_index_scan_range_bsatn"
    (func $range (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "row_iter_bsatn_advance" (func $advance (param i32 i32 i32) (result i32)))
  (memory (export "memory") 64)
  ;; 8: ids and handles. 12: lengths. 60: a bound that is none. 16: a name of a table, 24: of an index.
  (data (i32.const 16) "t00")
  (data (i32.const 24) "i00a")
  (data (i32.const 32) "seen")
  (data (i32.const 60) "\02")
  ;; For each table, how many indexes can be walked.
  (data (i32.const 512) "{WALKED}")
  (data (i32.const 0x3a0000) "{DEF}")
  (global $noted (mut i32) (i32.const 0x20000c))

  (func (export "__describe_module__") (param $sink i32)
    (i32.store (i32.const 12) (i32.const {LEN}))
    (drop (call $write (local.get $sink) (i32.const 0x3a0000) (i32.const 12))))

  (func $must (param i32) (if (local.get 0) (then (unreachable))))

  (func $digits (param $at i32) (param $n i32)
    (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.div_u (local.get $n) (i32.const 10))))
    (i32.store8 offset=1 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))

  (func $table (param $n i32) (result i32)
    (call $digits (i32.const 17) (local.get $n))
    (call $must (call $table_id (i32.const 16) (i32.const 3) (i32.const 8)))
    (i32.load (i32.const 8)))

  (func $index (param $n i32) (param $which i32) (result i32)
    (call $digits (i32.const 25) (local.get $n))
    (i32.store8 (i32.const 27) (i32.add (i32.const 97) (local.get $which)))
    (call $must (call $index_id (i32.const 24) (i32.const 4) (i32.const 8)))
    (i32.load (i32.const 8)))

  (func $note (param $hash i64)
    (i64.store (global.get $noted) (local.get $hash))
    (global.set $noted (i32.add (global.get $noted) (i32.const 8))))

  ;; Notes the hash of all rows of an iterator.
  (func $drain (param $handle i32) (param $buffer i32)
    (local $result i32) (local $hash i64) (local $at i32) (local $end i32)
    (local.set $hash (i64.const 0xcbf29ce484222325))
    (loop $more
      (i32.store (i32.const 12) (local.get $buffer))
      (local.set $result (call $advance (local.get $handle) (i32.const 0x300000) (i32.const 12)))
      (if (i32.eq (local.get $result) (i32.const 11))
        (then (local.set $buffer (i32.load (i32.const 12))) (br $more)))
      (if (i32.gt_s (local.get $result) (i32.const 0)) (then (unreachable)))
      (local.set $at (i32.const 0x300000))
      (local.set $end (i32.add (i32.const 0x300000) (i32.load (i32.const 12))))
      (block $done (loop $byte
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $hash (i64.mul (i64.xor (local.get $hash) (i64.load8_u (local.get $at))) (i64.const 0x100000001b3)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $byte)))
      (br_if $more (i32.eqz (local.get $result))))
    (call $note (local.get $hash)))

  (func (export "__call_reducer__")
    (param $id i32) (param i64 i64 i64 i64 i64 i64) (param $time i64) (param $source i32) (param i32) (result i32)
    (local $len i32) (local $result i32) (local $buffer i32) (local $count i32) (local $at i32) (local $what i32)
    (local $n i32) (local $which i32)
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $source)))
      (i32.store (i32.const 12) (i32.const 0x10000))
      (local.set $result (call $read (local.get $source) (i32.add (i32.const 0x10000) (local.get $len)) (i32.const 12)))
      (local.set $len (i32.add (local.get $len) (i32.load (i32.const 12))))
      (br_if $more (i32.eqz (local.get $result)))))
    (local.set $buffer (i32.load (i32.const 0x10004)))
    (local.set $count (i32.load (i32.const 0x10008)))
    (local.set $at (i32.const 0x1000c))

    (loop $more
      (call $must (call $scan (call $table (local.get $n)) (i32.add (i32.const 1024) (i32.shl (local.get $n) (i32.const 2)))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const {TABLES}))))

    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $count)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (local.set $what (i32.load8_u (local.get $at)))
      (local.set $n (i32.load8_u offset=1 (local.get $at)))
      (local.set $len (i32.load offset=2 (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 6)))
      (i32.store (i32.const 12) (local.get $len))
      ;; The host may leave something else in a row's place.
      (memory.copy (i32.const 0x300000) (local.get $at) (local.get $len))
      (if (i32.eqz (local.get $what))
        (then (call $note (i64.extend_i32_u
          (call $insert (call $table (local.get $n)) (i32.const 0x300000) (i32.const 12))))))
      (if (i32.eq (local.get $what) (i32.const 1))
        (then
          (call $must (call $delete (call $table (local.get $n)) (local.get $at) (local.get $len) (i32.const 64)))
          (call $note (i64.load32_u (i32.const 64)))))
      (if (i32.eq (local.get $what) (i32.const 2))
        (then (call $note (i64.extend_i32_u
          (call $update (call $table (local.get $n)) (call $index (local.get $n) (i32.const 0)) (i32.const 0x300000)
            (i32.const 12))))))
      (if (i32.eq (local.get $what) (i32.const 3))
        (then
          (call $must (call $range (call $index (local.get $n) (i32.const 0)) (i32.const 60) (i32.const 0) (i32.const 0)
            (local.get $at) (local.get $len) (local.get $at) (local.get $len) (i32.const 8)))
          (call $drain (i32.load (i32.const 8)) (local.get $buffer))))
      (if (i32.eq (local.get $what) (i32.const 4))
        (then
          (call $must (call $range (call $index (local.get $n) (i32.const 0)) (i32.const 60) (i32.const 0) (i32.const 0)
            (local.get $at) (local.get $len) (i32.const 60) (i32.const 1) (i32.const 8)))
          (call $drain (i32.load (i32.const 8)) (local.get $buffer))))
      (local.set $at (i32.add (local.get $at) (local.get $len)))
      (br $more)))

    (local.set $n (i32.const 0))
    (loop $more
      (call $drain (i32.load (i32.add (i32.const 1024) (i32.shl (local.get $n) (i32.const 2)))) (local.get $buffer))
      (call $must (call $scan (call $table (local.get $n)) (i32.const 8)))
      (call $drain (i32.load (i32.const 8)) (local.get $buffer))
      (local.set $which (i32.const 0))
      (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $which) (i32.load8_u offset=512 (local.get $n))))
        (call $must (call $range (call $index (local.get $n) (local.get $which)) (i32.const 60) (i32.const 0) (i32.const 0)
          (i32.const 60) (i32.const 1) (i32.const 60) (i32.const 1) (i32.const 8)))
        (call $drain (i32.load (i32.const 8)) (local.get $buffer))
        (local.set $which (i32.add (local.get $which) (i32.const 1)))
        (br $next)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const {TABLES}))))

    (i64.store (i32.const 0x200000) (local.get $time))
    (local.set $len (i32.sub (global.get $noted) (i32.const 0x20000c)))
    (i32.store (i32.const 0x200008) (local.get $len))
    (i32.store (i32.const 12) (i32.add (local.get $len) (i32.const 12)))
    (call $must (call $table_id (i32.const 32) (i32.const 4) (i32.const 8)))
    (call $must (call $insert (i32.load (i32.const 8)) (i32.const 0x200000) (i32.const 12)))
    (i32.const 0)))
