;; A module whose reducers read rows. Arguments: `buffer: u32, first: u8, second: u8, count: u32`, then `count` times
;; `len: u32, row`, then a key. Ways to read: 0 not at all, 1 the table, 2 all of the index `by_key`, 3 the key in
;; `by_key`, 4 the same as a range, 5 the key in `by_hash`.
(module
  (import "spacetime_10.0" "table_id_from_name" (func $table_id (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "index_id_from_name" (func $index_id (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "bytes_source_read" (func $read (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_insert_bsatn" (func $insert (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_table_scan_bsatn" (func $scan (param i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_index_scan_range_bsatn"
    (func $range (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "datastore_btree_scan_bsatn"
    (func $btree (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.4" "datastore_index_scan_point_bsatn" (func $point (param i32 i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "row_iter_bsatn_advance" (func $advance (param i32 i32 i32) (result i32)))
  (import "spacetime_10.0" "row_iter_bsatn_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 64)
  ;; 8: ids and handles. 12: lengths. 60: a bound that is none.
  (data (i32.const 16) "rows")
  (data (i32.const 24) "seen")
  (data (i32.const 32) "by_key")
  (data (i32.const 40) "by_hash")
  (data (i32.const 60) "\02")
  (data (i32.const 0x3a0000) "{DEF}")
  (global $key (mut i32) (i32.const 0))
  (global $key_len (mut i32) (i32.const 0))
  ;; Where the rows of the two iterators go: behind the length of the result, the time, and the length of the first.
  (global $firsts (mut i32) (i32.const 0x200010))
  (global $seconds (mut i32) (i32.const 0x280000))

  (func (export "__describe_module__") (param $sink i32)
    (i32.store (i32.const 12) (i32.const {LEN}))
    (drop (call $write (local.get $sink) (i32.const 0x3a0000) (i32.const 12))))

  (func $must (param i32) (if (local.get 0) (then (unreachable))))

  (func $table (param $name i32) (result i32)
    (call $must (call $table_id (local.get $name) (i32.const 4) (i32.const 8)))
    (i32.load (i32.const 8)))

  (func $index (param $name i32) (param $len i32) (result i32)
    (call $must (call $index_id (local.get $name) (local.get $len) (i32.const 8)))
    (i32.load (i32.const 8)))

  (func $open (param $way i32) (result i32)
    (if (i32.eq (local.get $way) (i32.const 1))
      (then (call $must (call $scan (call $table (i32.const 16)) (i32.const 8)))))
    (if (i32.eq (local.get $way) (i32.const 2))
      (then (call $must (call $range (call $index (i32.const 32) (i32.const 6)) (i32.const 60) (i32.const 0)
        (i32.const 0) (i32.const 60) (i32.const 1) (i32.const 60) (i32.const 1) (i32.const 8)))))
    (if (i32.eq (local.get $way) (i32.const 3))
      (then (call $must (call $point (call $index (i32.const 32) (i32.const 6)) (global.get $key) (global.get $key_len)
        (i32.const 8)))))
    (if (i32.eq (local.get $way) (i32.const 4))
      (then
        ;; An inclusive bound: its tag stands before the key.
        (i32.store8 (i32.sub (global.get $key) (i32.const 1)) (i32.const 0))
        (call $must (call $btree (call $index (i32.const 32) (i32.const 6)) (i32.const 60) (i32.const 0)
          (i32.const 0) (i32.sub (global.get $key) (i32.const 1)) (i32.add (global.get $key_len) (i32.const 1))
          (i32.const 60) (i32.const 0) (i32.const 8)))))
    (if (i32.eq (local.get $way) (i32.const 5))
      (then (call $must (call $point (call $index (i32.const 40) (i32.const 7)) (global.get $key) (global.get $key_len)
        (i32.const 8)))))
    (i32.load (i32.const 8)))

  ;; Some rows to $to. Says whether there are no more.
  (func $step (param $handle i32) (param $buffer i32) (param $to i32) (result i32) (local $result i32)
    (loop $again
      (i32.store (i32.const 12) (local.get $buffer))
      (local.set $result (call $advance (local.get $handle) (i32.const 0x320000) (i32.const 12)))
      (if (i32.eq (local.get $result) (i32.const 11))
        (then
          (if (i32.le_u (i32.load (i32.const 12)) (local.get $buffer)) (then (unreachable)))
          (local.set $buffer (i32.load (i32.const 12)))
          (br $again))))
    (if (i32.gt_s (local.get $result) (i32.const 0)) (then (unreachable)))
    (memory.copy (local.get $to) (i32.const 0x320000) (i32.load (i32.const 12)))
    (local.get $result))

  (func $read_both (param $buffer i32) (param $first i32) (param $second i32)
    (local $first_handle i32) (local $second_handle i32)
    (local.set $first_handle (call $open (local.get $first)))
    (local.set $second_handle (call $open (local.get $second)))
    (loop $more
      (if (local.get $first)
        (then
          (if (call $step (local.get $first_handle) (local.get $buffer) (global.get $firsts))
            (then (local.set $first (i32.const 0))))
          (global.set $firsts (i32.add (global.get $firsts) (i32.load (i32.const 12))))))
      (if (local.get $second)
        (then
          (if (call $step (local.get $second_handle) (local.get $buffer) (global.get $seconds))
            (then (local.set $second (i32.const 0))))
          (global.set $seconds (i32.add (global.get $seconds) (i32.load (i32.const 12))))))
      (br_if $more (i32.or (local.get $first) (local.get $second)))))

  (func (export "__call_reducer__")
    (param $id i32) (param i64 i64 i64 i64 i64 i64) (param $time i64) (param $source i32) (param i32) (result i32)
    (local $len i32) (local $result i32) (local $buffer i32) (local $first i32) (local $second i32) (local $count i32)
    (local $at i32) (local $table i32) (local $handle i32)
    (global.set $firsts (i32.const 0x200010))
    (global.set $seconds (i32.const 0x280000))
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $source)))
      (i32.store (i32.const 12) (i32.const 0x10000))
      (local.set $result (call $read (local.get $source) (i32.add (i32.const 0x10000) (local.get $len)) (i32.const 12)))
      (local.set $len (i32.add (local.get $len) (i32.load (i32.const 12))))
      (br_if $more (i32.eqz (local.get $result)))))
    (local.set $buffer (i32.load (i32.const 0x10000)))
    (local.set $first (i32.load8_u (i32.const 0x10004)))
    (local.set $second (i32.load8_u (i32.const 0x10005)))
    (local.set $count (i32.load (i32.const 0x10006)))
    (local.set $at (i32.const 0x1000a))

    ;; leak: opens as many iterators as there should be rows, and takes a look at each.
    (if (i32.eq (local.get $id) (i32.const 2))
      (then (loop $more
        (drop (call $step (call $open (local.get $first)) (local.get $buffer) (i32.const 0x280000)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br_if $more (local.get $count)))
        (return (i32.const 0))))
    ;; peek: the same, but closes each, before or after the look.
    (if (i32.eq (local.get $id) (i32.const 1))
      (then (loop $more
        (local.set $handle (call $open (local.get $first)))
        (if (i32.and (local.get $count) (i32.const 1))
          (then (if (call $step (local.get $handle) (local.get $buffer) (i32.const 0x280000)) (then (unreachable)))))
        (call $must (call $close (local.get $handle)))
        (if (i32.ne (call $close (local.get $handle)) (i32.const 6)) (then (unreachable)))
        (i32.store (i32.const 12) (local.get $buffer))
        (if (i32.ne (call $advance (local.get $handle) (i32.const 0x320000) (i32.const 12)) (i32.const 6))
          (then (unreachable)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br_if $more (local.get $count)))
        (return (i32.const 0))))

    ;; walk: inserts the rows, as far as their keys are free, and reads in two ways by turns.
    (local.set $table (call $table (i32.const 16)))
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $count)))
      (i32.store (i32.const 12) (i32.load (local.get $at)))
      (local.set $len (i32.load (local.get $at)))
      (local.set $result (call $insert (local.get $table) (i32.add (local.get $at) (i32.const 4)) (i32.const 12)))
      (if (i32.ne (local.get $result) (i32.const 12)) (then (call $must (local.get $result))))
      (local.set $at (i32.add (local.get $at) (i32.add (i32.const 4) (local.get $len))))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $more)))
    (global.set $key_len (i32.load (local.get $at)))
    (global.set $key (i32.add (local.get $at) (i32.const 4)))
    (call $read_both (local.get $buffer) (local.get $first) (local.get $second))
    (i64.store (i32.const 0x200004) (local.get $time))
    (i32.store (i32.const 0x20000c) (i32.sub (global.get $firsts) (i32.const 0x200010)))
    (local.set $len (i32.sub (global.get $seconds) (i32.const 0x280000)))
    (memory.copy (global.get $firsts) (i32.const 0x280000) (local.get $len))
    (local.set $len (i32.sub (i32.add (global.get $firsts) (local.get $len)) (i32.const 0x200000)))
    (i32.store (i32.const 0x200000) (i32.sub (local.get $len) (i32.const 4)))
    (i32.store (i32.const 12) (local.get $len))
    (call $must (call $insert (call $table (i32.const 24)) (i32.const 0x200000) (i32.const 12)))
    (i32.const 0)))
