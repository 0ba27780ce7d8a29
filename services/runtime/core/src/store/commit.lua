#!lua name=oncue_LIBRARY
-- The one atomic step that makes handled events real: seen-marks, age fence, row versions, state and outputs.
--
-- A call holds runs; a run holds the events of one key that were handled in order on one row. A run is applied whole
-- or not at all, so everything is checked before the first write: a script is not rolled back on an error. Neighbours
-- that are about of an age are a group.
--
-- ARGV: horizon, skew (ms), the worker's record ('' = none), bytes in the outbox of the call, number of runs; then for each run
--   its head (see RUN), field known*, value known*, (field, value)*, '_v' and a place for its value, field to delete*;
--   for each group its head (see GROUP), entry* (see below, where marks stand);
--   for each operation: number of the event in the run, name, field or member, number, limit;
--   for each entry in the ledger of a flow: state (d = done, x = dead; D, X where the event is for this function alone), function, keep (s), id, type and content of the
--     event, count of events that follow, (id, type, content)*
-- KEYS: the worker's record, the outbox of the call, already there with the outputs of all runs one after another, to go by
--   itself if they are not committed; the index it stands in; the marks of the function; then in the same order: for each
--   run the row (if any), one key per operation, one per entry.
-- Reply: the worker's record as it was, then for each run 1 if applied, else a list of a status and a detail per event:
--   duplicate, id_reuse (detail: the mark) | dead | conflict | fence (detail: now, ms) | invalid (detail: why)

-- Numbers come packed into heads, since each argument costs: most of a commit's time is their passing to this script.
-- Version read (-1 = no row at all), fields known and 1 (0 = the version tells), fields, fields to delete, bytes of
-- outbox, groups, operations, entries.
local RUN = '<dI4I4I4I4I4I4I4'
-- Kind (a = apply, d = dead letter, q = only ask), events, number of the redrive (0 = none), seconds that their marks must
-- live, earliest and latest time the fence hangs on (ms).
local GROUP = '<c1I4I4ddd'

-- Layout of a seen-mark, which `SeenMark` in mark.rs describes: positions of bytes, counted from 1. A unit test there
-- compares them with that struct.
local MARK_STATE = 1
local MARK_DEAD = 'd'
local MARK_HASH_FIRST = 2
local MARK_HASH_LAST = 4
local MARK_REDRIVE = 5
local NO_HASH = '\0\0\0'

-- Where marks stand. Those of a function are one hash, whatever the ids say. Its fields are buckets, numbered from 0 in four
-- bytes. A bucket is a string of marks one behind the other, for each the slot in which it expires and its entry: the first
-- bytes of its id's hash (ID), its length, and the mark. So a mark costs no field of its own, and one command reads the
-- buckets of all events of a call.
--
-- There are as many buckets as there are marks for (linear hashing): with more than LOAD on average, the next in turn is
-- split in two by one bit more; with far fewer, the last is put back to where it came from.
--
-- Field HEAD: number of buckets, marks in them, bucket at which upkeep goes on and when it was there (Unix s), and when the
-- hash expires (Unix s).
local HEAD = 'h'
-- Bytes of an id's hash. The last bits of the first four are the bucket. Nine are not found by chance where no mark begins.
local ID = 9
-- Marks in a bucket, on average.
local LOAD = 16
-- Seconds of a slot, of which a mark says the last it must live to see, modulo 256. Up to 127 lie ahead.
local SLOT = 12 * 3600
-- Seconds in which upkeep looks at every bucket once, for marks that have expired.
local ROUND = 6 * 3600
-- Seconds by which the hash outlives its last mark: until then upkeep has emptied it, which costs Redis no pause.
local SLACK = 36 * 3600

-- Marks of the function of this call: what their head says, and the buckets that were read, by field.
local marks

local function power_of_two(number)
  local _, exponent = math.frexp(number)
  return 2 ^ (exponent - 1)
end

local function open_marks(key)
  local buckets, count, hand, tended, expires =
    string.match(redis.call('HGET', key, HEAD) or '', '(%d+) (%d+) (%d+) (%d+) (%d+)')
  buckets = tonumber(buckets) or 1
  marks = { key = key, buckets = buckets, low = power_of_two(buckets), count = tonumber(count) or 0, hand = tonumber(hand) or 0,
    tended = tonumber(tended), expires = tonumber(expires) or 0, must_live = 0, read = {}, changed = {} }
end

local function bucket_of(id)
  local number = struct.unpack('>I4', id) % (2 * marks.low)
  return struct.pack('>I4', number < marks.buckets and number or number - marks.low)
end

local function read_buckets(buckets)
  for from = 1, #buckets, 1000 do
    local last = math.min(from + 999, #buckets)
    local found = redis.call('HMGET', marks.key, unpack(buckets, from, last))
    for i = from, last do marks.read[buckets[i]] = found[i - from + 1] or '' end
  end
end

local function read_bucket(bucket)
  if not marks.read[bucket] then read_buckets({ bucket }) end
  return marks.read[bucket]
end

local function change_bucket(bucket, text)
  marks.read[bucket], marks.changed[bucket] = text, true
end

-- Mark of an id in its bucket, and where its entry begins.
local function find_mark(text, id)
  local at = string.find(text, id, 1, true)
  if at then return string.sub(text, at + ID + 1, at + ID + string.byte(text, at + ID)), at end
end

local function write_mark(bucket, slot, entry)
  change_bucket(bucket, marks.read[bucket] .. slot .. entry)
  marks.count = marks.count + 1
end

local function remove_mark(bucket, id)
  local text = marks.read[bucket]
  local mark, at = find_mark(text, id)
  if not mark then return end
  change_bucket(bucket, string.sub(text, 1, at - 2) .. string.sub(text, at + ID + 1 + #mark))
  marks.count = marks.count - 1
end

-- Halves the bucket whose turn it is, by one bit more.
local function split_bucket()
  local number, bits, at = marks.buckets - marks.low, 2 * marks.low, 1
  local bucket = struct.pack('>I4', number)
  local text, stay, move = read_bucket(bucket), {}, {}
  while at <= #text do
    local following = at + ID + 2 + string.byte(text, at + ID + 1)
    local half = struct.unpack('>I4', text, at + 1) % bits == number and stay or move
    half[#half + 1] = string.sub(text, at, following - 1)
    at = following
  end
  change_bucket(bucket, table.concat(stay))
  change_bucket(struct.pack('>I4', marks.buckets), table.concat(move))
  marks.buckets = marks.buckets + 1
  marks.low = power_of_two(marks.buckets)
end

-- Undoes the last split.
local function merge_bucket()
  marks.buckets = marks.buckets - 1
  marks.low = power_of_two(marks.buckets)
  local last, into = struct.pack('>I4', marks.buckets), struct.pack('>I4', marks.buckets - marks.low)
  change_bucket(into, read_bucket(into) .. read_bucket(last))
  change_bucket(last, '')
end

-- Writes the buckets that have changed, and the head. At most `merges` are put together.
local function close_marks(merges, now)
  while marks.count > LOAD * marks.buckets do split_bucket() end
  while merges > 0 and marks.buckets > 1 and marks.count < LOAD / 4 * marks.buckets do
    merge_bucket()
    merges = merges - 1
  end
  local is_short = marks.expires < marks.must_live
  if is_short then marks.expires = marks.must_live + SLACK end
  local full, empty = { HEAD, string.format('%d %.0f %d %.0f %.0f', marks.buckets, marks.count, marks.hand, marks.tended or now,
    marks.expires) }, {}
  for bucket in pairs(marks.changed) do
    local text = marks.read[bucket]
    if text == '' then
      empty[#empty + 1] = bucket
    else
      full[#full + 1] = bucket
      full[#full + 1] = text
    end
  end
  for from = 1, #full, 1000 do redis.call('HSET', marks.key, unpack(full, from, math.min(from + 999, #full))) end
  for from = 1, #empty, 1000 do redis.call('HDEL', marks.key, unpack(empty, from, math.min(from + 999, #empty))) end
  if is_short then redis.call('EXPIREAT', marks.key, string.format('%.0f', marks.expires)) end
end

local function is_integer(text)
  return (text == '0' or string.match(text, '^%-?[1-9]%d*$')) and math.abs(tonumber(text)) <= 9e18
end

-- Compares integers as text: as numbers they would lose their last digits.
local function larger(a, b)
  local a_negative, b_negative = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  if a_negative ~= b_negative then return b_negative end
  if a_negative then a, b = string.sub(b, 2), string.sub(a, 2) end
  if #a ~= #b then return #a > #b end
  return a > b
end

-- A plan over another one: all that holds, and what will be added to it if the event is not refused.
local function beside(plan)
  return { kinds = setmetatable({}, { __index = plan.kinds }), values = setmetatable({}, { __index = plan.values }) }
end

-- Checks one operation against what is there and against those of the same run before it, which `plan` remembers.
local function check_op(op, plan)
  local want = ({ add = 'hash', max = 'hash', sadd = 'set', top = 'zset', distinct = 'string' })[op.name]
  if not want then return 'unknown operation ' .. op.name end
  local kind = plan.kinds[op.key] or redis.call('TYPE', op.key).ok
  if kind ~= 'none' and kind ~= want then return op.name .. ' on a ' .. kind end
  if op.name == 'add' or op.name == 'max' then
    if not string.match(op.number, '^%-?%d+$') then return op.name .. ' by ' .. op.number end
    local field = op.key .. '\0' .. op.member
    local value = plan.values[field]
    if not value then
      local old = redis.call('HGET', op.key, op.member) or '0'
      if not is_integer(old) then return op.name .. ' on a field that holds no integer' end
      value = tonumber(old)
    end
    value = op.name == 'add' and value + tonumber(op.number) or math.max(value, tonumber(op.number))
    if math.abs(value) > 9e18 or math.abs(tonumber(op.number)) > 9e18 then return op.name .. ' overflows' end
    plan.values[field] = value
  elseif op.name == 'top' then
    if not tonumber(op.number) then return 'top with score ' .. op.number end
  elseif op.name == 'distinct' and kind ~= 'none' and not plan.kinds[op.key] then
    if type(redis.pcall('PFCOUNT', op.key)) ~= 'number' then return 'distinct on a string' end
  end
  plan.kinds[op.key] = want
end

-- The row has a new version, or what a function that holds it makes of the old one would be written over this.
local function raise_version(key, micros)
  local version = tonumber(redis.call('HGET', key, '_v') or 0)
  redis.call('HSET', key, '_v', string.format('%.0f', math.max(micros, version + 1)))
end

local function apply_op(op, micros)
  if op.name == 'add' then
    redis.call('HINCRBY', op.key, op.member, op.number)
    raise_version(op.key, micros)
  elseif op.name == 'max' then
    local old = redis.call('HGET', op.key, op.member)
    if not old or larger(op.number, old) then
      redis.call('HSET', op.key, op.member, op.number)
      raise_version(op.key, micros)
    end
  elseif op.name == 'sadd' then
    redis.call('SADD', op.key, op.member)
  elseif op.name == 'top' then
    redis.call('ZADD', op.key, op.number, op.member)
    redis.call('ZREMRANGEBYRANK', op.key, 0, -(tonumber(op.limit) + 1))
  else
    redis.call('PFADD', op.key, op.member)
  end
end

local function payload_hash(mark)
  return string.sub(mark, MARK_HASH_FIRST, MARK_HASH_LAST)
end

-- Status of an event that comes again, by the mark it left; nil if an operator has redriven it since.
local function seen_status(mark, group, own)
  if string.sub(mark, MARK_STATE, MARK_STATE) == MARK_DEAD then
    -- A dead letter stays dead, unless an operator has redriven it since.
    if group.redrive > struct.unpack('>I4', mark, MARK_REDRIVE) then return nil end
    -- One that a recovery has marked again says nothing of the payload.
    local is_known = payload_hash(mark) ~= NO_HASH
    if is_known and payload_hash(mark) ~= payload_hash(own) and group.kind ~= 'd' then return 'id_reuse' end
    return 'dead'
  end
  if payload_hash(mark) ~= payload_hash(own) and group.kind ~= 'd' then return 'id_reuse' end
  return 'duplicate'
end

-- Records what stands in the way of an event, unless something else does.
local function refuse(run, at, status, detail)
  run.statuses = run.statuses or {}
  run.statuses[at] = run.statuses[at] or { status, detail }
end

local function check_group(group, ARGV, run, now, horizon, skew)
  local ids, count = {}, group.count
  for i = 1, count do
    local entry = ARGV[group.at + i - 1]
    ids[i] = string.sub(entry, 1, ID)
    local mark = find_mark(marks.read[group.buckets[i]], ids[i])
    local status = mark and seen_status(mark, group, string.sub(entry, ID + 2))
    if status then refuse(run, group.first + i, status, mark) end
  end
  if run.ids then
    for i = 1, count do
      if run.ids[ids[i]] then run.copies[#run.copies + 1] = group.first + i end
      run.ids[ids[i]] = true
    end
  end
  if group.kind == 'd' then return end
  local fenced = now > group.oldest + horizon or group.newest > now + skew
  if not fenced and group.kind == 'a' then return end
  for i = 1, count do
    if group.kind == 'q' then refuse(run, group.first + i, 'conflict', '') end
    if fenced then refuse(run, group.first + i, 'fence', string.format('%.0f', now)) end
  end
end

-- Checks the operations of the events that nothing else stands in the way of.
local function check_ops(run)
  local plan, at = { kinds = {}, values = {} }, 1
  while run.ops[at] do
    local event, own, why = run.ops[at].event, beside(plan), nil
    while run.ops[at] and run.ops[at].event == event do
      why = why or check_op(run.ops[at], own)
      at = at + 1
    end
    if why then
      refuse(run, event, 'invalid', why)
    elseif not (run.statuses and run.statuses[event]) then
      for key, kind in pairs(own.kinds) do plan.kinds[key] = kind end
      for field, value in pairs(own.values) do plan.values[field] = value end
    end
  end
end

-- Whether the row is as the handlers saw it; if it is no row at all, that is every event's status.
local function row_is_fresh(run, ARGV)
  local known, at = run.known, run.at - 2 * math.max(run.known, 0)
  local there = redis.pcall('HMGET', run.row, '_v', unpack(ARGV, at, at + known - 1))
  if there.err then
    local kind = redis.call('TYPE', run.row).ok
    run.statuses = {}
    for i = 1, run.count do refuse(run, i, 'invalid', 'the row is a ' .. kind) end
    return false
  end
  local version = tonumber(there[1] or 0)
  if known < 0 then return version == run.version end
  run.version = version
  for i = 1, known do
    if there[i + 1] ~= ARGV[at + known + i - 1] then return false end
  end
  return redis.call('HLEN', run.row) == known + (there[1] and 1 or 0)
end

-- Opens a step for every function that acts on an event which the ledger does not know yet; says how many.
local function open_steps(flow, event, now)
  if redis.call('HSETNX', flow, 'e:' .. event.id, event.content) == 0 then return 0 end
  local open = 0
  for _, name in ipairs(redis.call('SMEMBERS', 'APP:l:' .. event.ty)) do
    open = open + redis.call('HSETNX', flow, 's:' .. event.id .. ':' .. name, string.format('p %.0f', now))
  end
  return open
end

-- A ledger stays for as long as whoever wants it longest says: with a delayed event until that has come.
local function keep_ledger(flow, seconds)
  if redis.call('TTL', flow) < tonumber(seconds) then redis.call('EXPIRE', flow, seconds) end
end

-- An event is done: its own step closes, those of what follows open. The flow is complete when none is open.
local function write_entry(entry, now)
  local flow, open, step = entry.flow, 0, 's:' .. entry.id .. ':' .. entry.name
  if entry.own then
    redis.call('HSETNX', flow, 'e:' .. entry.id, entry.content)
  else
    open = open_steps(flow, entry, now)
  end
  local before = redis.call('HGET', flow, step)
  if before and string.sub(before, 1, 1) == 'p' then open = open - 1 end
  redis.call('HSET', flow, step, string.format('%s %.0f', entry.state, now))
  for _, event in ipairs(entry.follows) do open = open + open_steps(flow, event, now) end
  redis.call('HSETNX', flow, 'at', string.format('%.0f', now))
  if redis.call('HINCRBY', flow, 'n', open) == 0 then
    redis.call('HSET', flow, 'end', string.format('%.0f', now))
  else
    redis.call('HDEL', flow, 'end')
  end
  keep_ledger(flow, entry.keep)
end

-- An event that comes again is done already. Its ledger knows, unless Redis has lost that: then nobody else would close the step, or
-- it is not to be opened by whoever writes of the event next.
local function close_again(entry, state, now)
  local flow, step = entry.flow, 's:' .. entry.id .. ':' .. entry.name
  local before = redis.call('HGET', flow, step)
  if before and string.sub(before, 1, 1) ~= 'p' then return end
  redis.call('HSET', flow, step, string.format('%s %.0f', state, now))
  if before and redis.call('HINCRBY', flow, 'n', -1) == 0 then redis.call('HSET', flow, 'end', string.format('%.0f', now)) end
  keep_ledger(flow, entry.keep)
end

-- State in a ledger of an event that came again, by its status.
local SETTLED = { dead = 'x', duplicate = 'd' }

local function write_run(run, ARGV, micros, now)
  if run.row and run.fields + run.deletions > 0 then
    -- From the clock, so that a version lost with a rollback is never given to another content.
    local from, last = run.at, run.at + 2 * run.fields + 1
    ARGV[last] = string.format('%.0f', math.max(micros, run.version + 1))
    for from = from, last, 2000 do
      redis.call('HSET', run.row, unpack(ARGV, from, math.min(from + 1999, last)))
    end
    for at = last + 1, last + run.deletions do redis.call('HDEL', run.row, ARGV[at]) end
  end
  for _, op in ipairs(run.ops) do apply_op(op, micros) end
  for _, group in ipairs(run.groups) do
    local must_live = math.ceil(now / 1000) + group.keep
    local slot = string.char(math.ceil(must_live / SLOT) % 256)
    for i, bucket in ipairs(group.buckets) do
      local entry = ARGV[group.at + i - 1]
      -- Of what was redriven the dead letter has left one.
      if group.redrive > 0 then remove_mark(bucket, string.sub(entry, 1, ID)) end
      write_mark(bucket, slot, entry)
    end
    marks.must_live = math.max(marks.must_live, must_live)
  end
  for _, entry in ipairs(run.entries) do write_entry(entry, now) end
end

-- Cursors into keys and arguments. Kept here, since calls come one after another, and closures would have to be made anew for each.
-- Every call sets it before it reads.
local keys, args, key_at, arg_at
-- Buckets of marks that the call asks for.
local wanted

local function key() key_at = key_at + 1 return keys[key_at] end
local function arg() arg_at = arg_at + 1 return args[arg_at] end

-- In place of a list that has nothing in it; never written to.
local NONE = {}

local function read_group(first)
  local kind, count, redrive, keep, oldest, newest = struct.unpack(GROUP, arg())
  local at, buckets = arg_at + 1, {}
  arg_at = arg_at + count
  for i = 1, count do
    local bucket = bucket_of(args[at + i - 1])
    buckets[i] = bucket
    wanted[bucket] = true
  end
  return { first = first, buckets = buckets, kind = kind, redrive = redrive, keep = keep, oldest = oldest, newest = newest, count = count,
    at = at }
end

local function read_event()
  return { id = arg(), ty = arg(), content = arg() }
end

local function read_entry()
  local state, name, keep, entry = arg(), arg(), arg(), read_event()
  entry.state, entry.own = string.lower(state), state ~= string.lower(state)
  entry.name, entry.keep, entry.flow, entry.follows = name, keep, key(), {}
  for i = 1, tonumber(arg()) do entry.follows[i] = read_event() end
  return entry
end

local function read_run()
  local version, known, fields, deletions, outbox, groups, ops, entries = struct.unpack(RUN, arg())
  arg_at = arg_at + 2 * math.max(known - 1, 0)
  local run = { version = version, known = known - 1, at = arg_at + 1, fields = fields, deletions = deletions,
    outbox = outbox, count = 0, groups = {}, ops = ops > 0 and {} or NONE, entries = entries > 0 and {} or NONE }
  if version >= 0 then
    run.row = key()
    arg_at = arg_at + 2 * fields + 2 + deletions
  end
  for i = 1, groups do
    local group = read_group(run.count)
    run.groups[i], run.count = group, run.count + group.count
  end
  for i = 1, ops do
    run.ops[i] = { event = tonumber(arg()), name = arg(), member = arg(), number = arg(), limit = arg(), key = key() }
  end
  for i = 1, entries do run.entries[i] = read_entry() end
  if run.count > 1 then run.ids, run.copies = {}, {} end
  return run
end

-- Whether nothing stands in the way of a run.
local function check_run(run, ARGV, now, horizon, skew)
  for _, group in ipairs(run.groups) do check_group(group, ARGV, run, now, horizon, skew) end
  if run.ops[1] then check_ops(run) end
  -- Two copies of one event: the second must see the first.
  for _, at in ipairs(run.copies or NONE) do refuse(run, at, 'conflict', '') end
  return not run.statuses and (not run.row or row_is_fresh(run, ARGV))
end

local function statuses(run)
  local list = {}
  for i = 1, run.count do
    local status = run.statuses and run.statuses[i] or { 'conflict', '' }
    list[2 * i - 1], list[2 * i] = status[1], status[2]
  end
  return list
end

-- Keeps of the outbox what is committed, and puts it into the index; one of which nothing is committed goes.
local function keep_outbox(key, index, kept, cut, now)
  if not kept[1] then
    redis.call('DEL', key)
    return
  end
  if cut then
    for i, piece in ipairs(kept) do kept[i] = redis.call('GETRANGE', key, piece[1], piece[2]) end
    redis.call('SET', key, table.concat(kept))
  else
    redis.call('PERSIST', key)
  end
  redis.call('ZADD', index, now, key)
end

-- An event that was announced in a ledger will not come: the steps that wait for it are closed.
-- KEYS: the ledger, the set of its listeners. ARGV: id of the event.
-- Reply: how many steps were open.
local function close_steps(KEYS, ARGV)
  local time = redis.call('TIME')
  local now = math.floor((tonumber(time[1]) * 1000000 + tonumber(time[2])) / 1000)
  local closed = 0
  for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    local step = 's:' .. ARGV[1] .. ':' .. name
    local before = redis.call('HGET', KEYS[1], step)
    if before and string.sub(before, 1, 1) == 'p' then
      redis.call('HSET', KEYS[1], step, string.format('x %.0f', now))
      closed = closed + 1
    end
  end
  if closed > 0 and redis.call('HINCRBY', KEYS[1], 'n', -closed) == 0 then
    redis.call('HSET', KEYS[1], 'end', string.format('%.0f', now))
  end
  return closed
end

-- An operator changes a row by hand, if it is still as it was read.
-- KEYS: the row, the record of such changes. ARGV: version that was read, what goes on record, number of fields to set,
-- (field, value)*, field to delete*.
-- Reply: 1, or 0 if the row has changed since.
local function edit(KEYS, ARGV)
  if (redis.call('HGET', KEYS[1], '_v') or '0') ~= ARGV[1] then return 0 end
  local time, set = redis.call('TIME'), tonumber(ARGV[3])
  for at = 4, 2 + 2 * set, 2 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
  for at = 4 + 2 * set, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
  raise_version(KEYS[1], tonumber(time[1]) * 1000000 + tonumber(time[2]))
  redis.call('RPUSH', KEYS[2], ARGV[2])
  redis.call('LTRIM', KEYS[2], -10000, -1)
  return 1
end

local function count_of(record)
  return tonumber(string.match(record, '^%d+')) or 0
end

local function commit(KEYS, ARGV)
  local size = tonumber(ARGV[4])
  if size > 0 and redis.call('STRLEN', KEYS[2]) ~= size then
    return redis.error_reply('TRYAGAIN the outbox of this commit is gone')
  end
  local time = redis.call('TIME')
  local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local now = math.floor(micros / 1000)
  local horizon, skew, record = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
  local reply = { '' }
  keys, args, key_at, arg_at, wanted = KEYS, ARGV, 4, 5, {}
  if record ~= '' then
    local text = string.format('%s %.0f', record, now)
    local before = redis.call('SET', KEYS[1], text, 'EX', 604800, 'GET')
    -- Calls that are on their way at a time may come in another order: the record never says less than it did.
    if before and count_of(before) > count_of(record) then redis.call('SET', KEYS[1], before, 'EX', 604800) end
    reply[1] = before or ''
  end
  open_marks(KEYS[4])
  local runs, buckets = {}, {}
  for n = 1, tonumber(ARGV[5]) do runs[n] = read_run() end
  for bucket in pairs(wanted) do buckets[#buckets + 1] = bucket end
  read_buckets(buckets)
  local kept, cut, at = {}, false, 0 -- where in the outbox is what gets applied
  for n, run in ipairs(runs) do
    if check_run(run, ARGV, now, horizon, skew) then
      write_run(run, ARGV, micros, now)
      reply[n + 1] = 1
      if run.outbox > 0 then kept[#kept + 1] = { at, at + run.outbox - 1 } end
    else
      reply[n + 1] = statuses(run)
      cut = cut or run.outbox > 0
      -- One entry for each event, where all of them are tracked.
      for i = 1, run.count == #run.entries and run.count or 0 do
        local status = run.statuses and run.statuses[i]
        if status and SETTLED[status[1]] then close_again(run.entries[i], SETTLED[status[1]], now) end
      end
    end
    at = at + run.outbox
  end
  if marks.must_live > 0 then close_marks(8, math.floor(now / 1000)) end
  if size > 0 then keep_outbox(KEYS[2], KEYS[3], kept, cut, now) end
  return reply
end

-- Marks of ids. KEYS: the marks of a function, for each group. ARGV: for each group the number of its ids, and those.
-- Reply: for each id its mark, or nothing.
local function look_up(KEYS, ARGV)
  local reply, at = {}, 1
  for _, key in ipairs(KEYS) do
    open_marks(key)
    local buckets, count = {}, tonumber(ARGV[at])
    for i = 1, count do buckets[i] = bucket_of(ARGV[at + i]) end
    read_buckets(buckets)
    for i = 1, count do reply[#reply + 1] = find_mark(marks.read[buckets[i]], ARGV[at + i]) or false end
    at = at + count + 1
  end
  return reply
end

-- A bucket without the marks at its front that nobody may ask for any more: the oldest come first.
local function without_expired(text, now)
  local at, slot = 1, math.floor(now / SLOT)
  while at <= #text and (slot - string.byte(text, at)) % 256 < 128 do
    at = at + ID + 2 + string.byte(text, at + ID + 1)
    marks.count = marks.count - 1
  end
  return string.sub(text, at)
end

-- Upkeep: visits buckets that have not been visited for a round, and drops the marks in them that have expired.
-- KEYS: the marks of a function. ARGV: how many buckets at most, unless more than that are due within two seconds.
-- Reply: how many more are due.
local function tend(KEYS, ARGV)
  local now = tonumber(redis.call('TIME')[1])
  open_marks(KEYS[1])
  if not marks.tended then return 0 end
  local due = math.min(marks.buckets, math.floor(marks.buckets * (now - marks.tended) / ROUND))
  -- At least those of two seconds: by less, the whole second at which upkeep goes on would not move.
  local visits, buckets = math.min(due, math.max(tonumber(ARGV[1]), math.ceil(2 * marks.buckets / ROUND))), {}
  if visits < 1 then return 0 end
  for i = 1, visits do buckets[i] = struct.pack('>I4', (marks.hand + i) % marks.buckets) end
  read_buckets(buckets)
  for _, bucket in ipairs(buckets) do
    local text = marks.read[bucket]
    local rest = without_expired(text, now)
    if rest ~= text then change_bucket(bucket, rest) end
  end
  marks.hand = (marks.hand + visits) % marks.buckets
  marks.tended = visits == due and now or math.floor(marks.tended + (now - marks.tended) * visits / due)
  close_marks(visits, now)
  return due - visits
end

-- Counts runs that are about to begin, each once, however often it is asked about.
-- KEYS: for each run the count of its event, and the runs of it that were counted within the last hour. ARGV: for each run its number, the
-- place of its message in the stream, how long the count is kept (s), and 1 if it may begin only as the first of its event.
-- Reply: for each run the count with it, and how long ago (ms) one began for another message; -1 for never. A run that may not begin is
-- not counted.
local function begin(KEYS, ARGV)
  local time = redis.call('TIME')
  local now = math.floor((tonumber(time[1]) * 1000000 + tonumber(time[2])) / 1000)
  local reply = {}
  for n = 1, #KEYS / 2 do
    local count, lately = KEYS[2 * n - 1], KEYS[2 * n]
    local run, place, keep, is_only_first = ARGV[4 * n - 3], ARGV[4 * n - 2], ARGV[4 * n - 1], ARGV[4 * n] == '1'
    local begun, since, is_known = tonumber(redis.call('GET', count) or 0), -1, false
    local known = redis.call('HGETALL', lately)
    for i = 1, #known, 2 do
      local where, at = string.match(known[i + 1], '^(%d+) (%d+)$')
      if known[i] == run then
        is_known = true
      elseif where ~= place then
        local passed = math.max(now - tonumber(at), 0)
        since = since < 0 and passed or math.min(since, passed)
      end
    end
    if is_only_first and begun > 0 and not is_known then
      begun = begun + 1
    elseif not is_known then
      begun = redis.call('INCR', count)
      redis.call('EXPIRE', count, keep)
      redis.call('HSET', lately, run, string.format('%s %.0f', place, now))
      redis.call('EXPIRE', lately, 3600)
    end
    reply[n] = { begun, since }
  end
  return reply
end

-- A worker has missed commits of its own: recorded under its name, unless they have been restored since it looked last.
-- KEYS: what was found. ARGV: the epoch known, the worker, what it found.
-- The epoch, which each restoration raises, is no key: a caller that may only read it could not name it. One below the known
-- one is itself something that Redis has lost.
-- Reply: the epoch.
local function regressed(KEYS, ARGV)
  local epoch = redis.call('GET', 'APP:epoch') or '0'
  if tonumber(epoch) <= tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
  return epoch
end

-- Takes one of what each of several may have of a limit, which all gateways share (generic cell rate algorithm); kept of each is the
-- moment at which all that was taken is paid for. One that lies further ahead than all that can be taken at once is of a clock that
-- has gone back since, and is brought down to that.
-- KEYS: those moments. ARGV: time in which one is earned (us), how many can be taken at once; for each how many were let through
-- before without asking.
-- Reply, for each: 1 if it was there, how many are there now, time until one is (us), time until all are (us).
local function spend(KEYS, ARGV)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local interval = tonumber(ARGV[1])
  local most = interval * tonumber(ARGV[2])
  local reply = {}
  for n, key in ipairs(KEYS) do
    local paid = math.max(tonumber(redis.call('GET', key) or 0), now) + interval * tonumber(ARGV[n + 2])
    local taken, after = 1, math.min(paid, now + most) + interval
    if after - now > most then taken, after = 0, after - interval end
    redis.call('SET', key, string.format('%.0f', after), 'PX', string.format('%.0f', math.ceil((after - now) / 1000) + 1))
    reply[n] = { taken, math.floor((most - after + now) / interval), taken == 1 and 0 or after + interval - now - most, after - now }
  end
  return reply
end

-- Whether the caller may do what a commit does, asked before the first one: a refusal in its middle keeps what was written
-- before.
-- ARGV: commands and keys in turns.
-- Reply: the first command and key that are refused, or nothing.
local function may(KEYS, ARGV)
  for at = 1, #ARGV, 2 do
    if not redis.acl_check_cmd(ARGV[at], ARGV[at + 1]) then return { ARGV[at], ARGV[at + 1] } end
  end
  return {}
end

redis.register_function('oncue_commit_LIBRARY', commit)
redis.register_function('oncue_begin_LIBRARY', begin)
redis.register_function('oncue_regressed_LIBRARY', regressed)
redis.register_function('oncue_close_steps_LIBRARY', close_steps)
redis.register_function('oncue_edit_LIBRARY', edit)
redis.register_function('oncue_spend_LIBRARY', spend)
redis.register_function('oncue_tend_LIBRARY', tend)
redis.register_function({ function_name = 'oncue_may_LIBRARY', callback = may, flags = { 'no-writes' } })
redis.register_function({ function_name = 'oncue_marks_LIBRARY', callback = look_up, flags = { 'no-writes' } })
