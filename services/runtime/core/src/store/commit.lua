#!lua name=oncue_LIBRARY
-- The one atomic step that makes handled events real: seen-marks, age fence, row versions, state and outputs.
--
-- A call holds runs; a run holds the events of one key that were handled in order on one row. A run is applied whole
-- or not at all, so everything is checked before the first write: a script is not rolled back on an error. Neighbours
-- whose marks stand in one directory are a group.
--
-- ARGV: horizon, skew (ms), the worker's record ('' = none), bytes in the outbox of the call, number of runs; then for each run
--   its head (see RUN), field known*, value known*, (field, value)*, '_v' and a place for its value, field to delete*;
--   for each group its head (see GROUP), (id, mark)*;
--   for each operation: number of the event in the run, name, field or member, number, limit;
--   for each entry in the ledger of a flow: state (d = done, x = dead), function, keep (s), id, type and content of the
--     event, count of events that follow, (id, type, content)*
-- KEYS: the worker's record, the outbox of the call, already there with the outputs of all runs one after another, to go by
--   itself if they are not committed; the index it stands in; then in the same order: for each run the
--   row (if any), for each group the directory of its marks, one key per operation, one per entry.
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

-- Where marks stand. A directory is a string, with `NUMBER BORN ROOT DEPTH` for each of its generations, the newest
-- first. A bucket `DIRECTORY:NUMBER:DEPTH:PREFIX` is a hash with the marks of the ids (hashes, 16 bytes) whose first
-- DEPTH bits are PREFIX, under what follows of their first ten bytes. A bucket that is full is split in two, one bit
-- deeper. ROOT and DEPTH of a generation are the least and the greatest depth of its buckets: those of an id are looked
-- for from below, and the first that is there is the one.
--
-- A bucket lives until no mark in it may be asked for any more. So that the directory of ids without a time does not
-- grow for ever, a generation is written to for some time only, and then read until its buckets are gone.

-- Marks in a bucket that is full; Redis searches it from the front.
local FULL = 128
-- Depth of buckets that are not split any more.
local DEEPEST = 30
-- Seconds for which marks are written to one generation.
local GENERATION = 36 * 3600
-- Seconds by which a bucket lives longer than it must, so that not every mark has to extend it.
local SLACK = 3600
-- Field of a bucket that has its expiry (Unix s): to look it up beside the mark costs less than to set it each time.
local EXPIRES = 'e'

-- Directories of this call by their keys.
local directories

local function read_directory(key)
  local directory = directories[key]
  if directory then return directory end
  directory = { key = key, changes = 0 }
  for number, born, root, depth in string.gmatch(redis.call('GET', key) or '', '(%d+) (%d+) (%d+) (%d+)') do
    directory[#directory + 1] =
      { number = tonumber(number), born = tonumber(born), root = tonumber(root), depth = tonumber(depth) }
  end
  directories[key] = directory
  return directory
end

local function write_directory(directory)
  local lines = {}
  for i, generation in ipairs(directory) do
    lines[i] = string.format('%d %.0f %d %d', generation.number, generation.born, generation.root, generation.depth)
  end
  redis.call('SET', directory.key, table.concat(lines, '\n'), 'KEEPTTL')
  directory.changes = directory.changes + 1
end

local function bucket_key(directory, generation, depth, prefix)
  return string.format('%s:%d:%d:%.0f', directory.key, generation.number, depth, prefix)
end

local function prefix_of(id, depth)
  return math.floor(struct.unpack('>I4', id) / 2 ^ (32 - depth))
end

local function field_of(id, depth)
  return string.sub(id, 1 + math.floor(depth / 8), 10)
end

-- The bucket of an id in a generation, its depth and its expiry, and the mark in it, if there is one; nil if not even the
-- bucket is there.
local function look_up(directory, generation, id)
  for depth = generation.depth, generation.root, -1 do
    local bucket = bucket_key(directory, generation, depth, prefix_of(id, depth))
    local found = redis.call('HMGET', bucket, EXPIRES, field_of(id, depth))
    if found[1] then return bucket, depth, tonumber(found[1]), found[2] end
  end
end

local function split(directory, generation, bucket, depth, prefix)
  local children, expires = { [0] = {}, {} }, nil
  local entries = redis.call('HGETALL', bucket)
  for i = 1, #entries, 2 do
    local field = entries[i]
    if field == EXPIRES then
      expires = entries[i + 1]
    else
      local child = children[math.floor(string.byte(field) / 2 ^ (7 - depth % 8)) % 2]
      -- Of a byte all of whose bits are in the prefix nothing is left in the field.
      child[#child + 1] = depth % 8 == 7 and string.sub(field, 2) or field
      child[#child + 1] = entries[i + 1]
    end
  end
  for bit = 0, 1 do
    local key = bucket_key(directory, generation, depth + 1, 2 * prefix + bit)
    redis.call('HSET', key, EXPIRES, expires, unpack(children[bit]))
    redis.call('EXPIREAT', key, expires)
  end
  redis.call('DEL', bucket)
  generation.depth = math.max(generation.depth, depth + 1)
  write_directory(directory)
end

-- Begins a generation as deep as the one before it, of this directory or of the hour before, turned out to need.
local function add_generation(directory, id, keep, now)
  local other, is_new = directory, not directory[1]
  if is_new then
    other = read_directory((string.gsub(directory.key, '%d+$', function(n) return string.format('%.0f', n - 1) end)))
  end
  local before, depth = other[1], 0
  if before then
    local bucket = look_up(other, before, id)
    local sparse = not bucket or redis.call('HLEN', bucket) < FULL / 4
    depth = math.max(0, before.depth - (sparse and 1 or 0))
  end
  table.insert(directory, 1, { number = is_new and 0 or before.number + 1, born = now, root = depth, depth = depth })
  while directory[3] and directory[#directory - 1].born + keep + SLACK < now do table.remove(directory) end
  write_directory(directory)
  if is_new then redis.call('EXPIREAT', directory.key, string.format('%.0f', now + keep + SLACK)) end
end

-- `place` is what `look_up` found before, while nothing has changed in the directory since.
local function write_mark(directory, place, id, mark, keep, now)
  if not directory[1] or now - directory[1].born > GENERATION then add_generation(directory, id, keep, now) end
  local generation = directory[1]
  local bucket, depth, expires
  if place and place.changes == directory.changes then
    bucket, depth, expires = place.bucket, place.depth, place.expires
  else
    bucket, depth, expires = look_up(directory, generation, id)
  end
  depth = depth or generation.root
  bucket = bucket or bucket_key(directory, generation, depth, prefix_of(id, depth))
  if expires and expires >= now + keep then
    redis.call('HSET', bucket, field_of(id, depth), mark)
  else
    local until_then = string.format('%.0f', now + keep + SLACK)
    redis.call('HSET', bucket, field_of(id, depth), mark, EXPIRES, until_then)
    redis.call('EXPIREAT', bucket, until_then)
    redis.call('EXPIREAT', directory.key, until_then, 'GT')
  end
  -- One in eight looks, since a bucket may be somewhat fuller than full.
  if string.byte(id, 16) % 8 == 0 and depth < DEEPEST and redis.call('HLEN', bucket) > FULL then
    split(directory, generation, bucket, depth, prefix_of(id, depth))
  end
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
    if group.redrive <= struct.unpack('>I4', mark, MARK_REDRIVE) then return 'dead' end
    return nil
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
  local ids, at, count = {}, group.at, group.count
  local directory = read_directory(group.directory)
  for i = 1, count do
    ids[i] = ARGV[at + 2 * i - 2]
    for nth, generation in ipairs(directory) do
      local bucket, depth, expires, mark = look_up(directory, generation, ids[i])
      if nth == 1 and bucket then
        group.places[i] = { bucket = bucket, depth = depth, expires = expires, changes = directory.changes }
      end
      local status = mark and seen_status(mark, group, ARGV[at + 2 * i - 1])
      if status then refuse(run, group.first + i, status, mark) end
    end
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
  for _, name in ipairs(redis.call('SMEMBERS', 'oncue:l:' .. event.ty)) do
    open = open + redis.call('HSETNX', flow, 's:' .. event.id .. ':' .. name, string.format('p %.0f', now))
  end
  return open
end

-- An event is done: its own step closes, those of what follows open. The flow is complete when none is open.
local function write_entry(entry, now)
  local flow = entry.flow
  local open, step = open_steps(flow, entry, now), 's:' .. entry.id .. ':' .. entry.name
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
  redis.call('EXPIRE', flow, entry.keep)
end

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
    local directory = read_directory(group.directory)
    for i = 1, group.count do
      local id, mark = ARGV[group.at + 2 * i - 2], ARGV[group.at + 2 * i - 1]
      write_mark(directory, group.places[i], id, mark, group.keep, math.floor(now / 1000))
    end
  end
  for _, entry in ipairs(run.entries) do write_entry(entry, now) end
end

-- Cursors into keys and arguments. Kept here, since calls come one after another, and closures would have to be made anew for each.
-- Every call sets it before it reads.
local keys, args, key_at, arg_at

local function key() key_at = key_at + 1 return keys[key_at] end
local function arg() arg_at = arg_at + 1 return args[arg_at] end

-- In place of a list that has nothing in it; never written to.
local NONE = {}

local function read_group(first)
  local kind, count, redrive, keep, oldest, newest = struct.unpack(GROUP, arg())
  local at = arg_at + 1
  arg_at = arg_at + 2 * count
  return { first = first, kind = kind, redrive = redrive, directory = key(), keep = keep, oldest = oldest,
    newest = newest, count = count, at = at, places = {} }
end

local function read_event()
  return { id = arg(), ty = arg(), content = arg() }
end

local function read_entry()
  local state, name, keep, entry = arg(), arg(), arg(), read_event()
  entry.state, entry.name, entry.keep, entry.flow, entry.follows = state, name, keep, key(), {}
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
  keys, args, key_at, arg_at, directories = KEYS, ARGV, 3, 5, {}
  if record ~= '' then
    local text = string.format('%s %.0f', record, now)
    local before = redis.call('SET', KEYS[1], text, 'EX', 604800, 'GET')
    -- Calls that are on their way at a time may come in another order: the record never says less than it did.
    if before and count_of(before) > count_of(record) then redis.call('SET', KEYS[1], before, 'EX', 604800) end
    reply[1] = before or ''
  end
  local kept, cut, at = {}, false, 0 -- where in the outbox is what gets applied
  for n = 1, tonumber(ARGV[5]) do
    local run = read_run()
    if check_run(run, ARGV, now, horizon, skew) then
      write_run(run, ARGV, micros, now)
      reply[n + 1] = 1
      if run.outbox > 0 then kept[#kept + 1] = { at, at + run.outbox - 1 } end
    else
      reply[n + 1] = statuses(run)
      cut = cut or run.outbox > 0
    end
    at = at + run.outbox
  end
  if size > 0 then keep_outbox(KEYS[2], KEYS[3], kept, cut, now) end
  return reply
end

-- Marks of ids. KEYS: a directory for each group. ARGV: for each group the number of its ids, and those.
-- Reply: for each id its mark, or nothing.
local function marks(KEYS, ARGV)
  local reply, at = {}, 1
  directories = {}
  for _, key in ipairs(KEYS) do
    local directory, count = read_directory(key), tonumber(ARGV[at])
    for i = at + 1, at + count do
      local found
      for _, generation in ipairs(directory) do
        found = found or select(4, look_up(directory, generation, ARGV[i]))
      end
      reply[#reply + 1] = found or false
    end
    at = at + count + 1
  end
  return reply
end

-- A worker has missed commits of its own: recorded under its name, unless they have been restored since it looked last.
-- KEYS: the epoch, which each restoration raises, and what was found. ARGV: the epoch known, the worker, what it found.
-- An epoch below the known one is itself something that Redis has lost.
-- Reply: the epoch.
local function regressed(KEYS, ARGV)
  local epoch = redis.call('GET', KEYS[1]) or '0'
  if tonumber(epoch) <= tonumber(ARGV[1]) then redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) end
  return epoch
end

redis.register_function('oncue_commit_LIBRARY', commit)
redis.register_function('oncue_regressed_LIBRARY', regressed)
redis.register_function('oncue_close_steps_LIBRARY', close_steps)
redis.register_function({ function_name = 'oncue_marks_LIBRARY', callback = marks, flags = { 'no-writes' } })
