#!lua name=oncue_LIBRARY
-- The one atomic step that makes handled events real: seen-marks, age fence, row versions, state and outputs.
--
-- A call holds runs; a run holds the events of one key that were handled in order on one row. A run is applied whole
-- or not at all, so everything is checked before the first write: a script is not rolled back on an error. Events whose
-- marks stand in one bucket are a group, looked up and marked by one command each.
--
-- ARGV: horizon, skew (ms), the worker's record ('' = none), number of runs; then for each run
--   version read ('' = no row), set count, (field, value)*, delete count, field*, outbox ('' = none), group count,
--   for each group: kind (a = apply, d = dead letter, q = only ask), number of the redrive (0 = none), seen keys, mark
--     expiry (unix s), earliest and latest time the fence hangs on (ms), event count, (id, mark)*;
--   operation count, (number of the event in the run, name, field or member, number, limit)*;
--   count of entries in ledgers of flows, for each: state (d = done, x = dead), function, keep (s), id, type and content of
--     the event, count of events that follow, (id, type, content)*
-- KEYS: the worker's record, the outbox of the call, the index it stands in; then in the same order: for each run the
--   row (if any), for each group its seen keys, one key per operation, one per entry.
-- Reply: the worker's record as it was, then for each run 1 if applied, else a list of a status and a detail per event:
--   duplicate, id_reuse (detail: the mark) | dead | conflict | fence (detail: now, ms) | invalid (detail: why)

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

-- What a plan holds, and what will be added to it if the event is not refused.
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

local function apply_op(op)
  if op.name == 'add' then
    redis.call('HINCRBY', op.key, op.member, op.number)
  elseif op.name == 'max' then
    local old = redis.call('HGET', op.key, op.member)
    if not old or larger(op.number, old) then redis.call('HSET', op.key, op.member, op.number) end
  elseif op.name == 'sadd' then
    redis.call('SADD', op.key, op.member)
  elseif op.name == 'top' then
    redis.call('ZADD', op.key, op.number, op.member)
    redis.call('ZREMRANGEBYRANK', op.key, 0, -(tonumber(op.limit) + 1))
  else
    redis.call('PFADD', op.key, op.member)
  end
end

-- What a mark that is there says of an event that comes again; nothing if an operator has redriven it since.
local function seen_status(mark, group, own)
  if string.sub(mark, 1, 1) == 'd' then
    -- A dead letter stays dead, unless an operator has redriven it since.
    if group.redrive <= (tonumber(string.sub(mark, 10)) or 0) then return 'dead' end
    return nil
  end
  if string.sub(mark, 2, 9) ~= string.sub(own, 2, 9) and group.kind ~= 'd' then return 'id_reuse' end
  return 'duplicate'
end

-- Puts into `statuses` what stands in the way of the group's events.
local function check_group(group, ARGV, run, now, horizon, skew)
  local ids, statuses = {}, run.statuses
  for i = 1, group.count do
    local id = ARGV[group.at + 2 * (i - 1)]
    ids[i] = id
    if run.ids[id] then run.copies[#run.copies + 1] = group.first + i end
    run.ids[id] = true
  end
  for _, key in ipairs(group.seen) do
    local marks = redis.call('HMGET', key, unpack(ids))
    for i = 1, group.count do
      local mark, at = marks[i], group.first + i
      local status = mark and not statuses[at] and seen_status(mark, group, ARGV[group.at + 2 * i - 1])
      if status then statuses[at] = { status, mark } end
    end
  end
  if group.kind == 'd' then return end
  local fenced = now > group.oldest + horizon or group.newest > now + skew
  for i = 1, group.count do
    local at = group.first + i
    if not statuses[at] and group.kind == 'q' then statuses[at] = { 'conflict', '' } end
    if not statuses[at] and fenced then statuses[at] = { 'fence', string.format('%.0f', now) } end
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
    if not run.statuses[event] then
      if why then
        run.statuses[event] = { 'invalid', why }
      else
        for key, kind in pairs(own.kinds) do plan.kinds[key] = kind end
        for field, value in pairs(own.values) do plan.values[field] = value end
      end
    end
  end
end

-- Whether the row is as the handlers saw it; if it is no row at all, that is every event's status.
local function row_is_fresh(run)
  local version = redis.pcall('HGET', run.row, '_v')
  if type(version) ~= 'table' then return (version or '0') == run.version end
  local kind = redis.call('TYPE', run.row).ok
  for i = 1, run.count do run.statuses[i] = { 'invalid', 'the row is a ' .. kind } end
  return false
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

local function hset(key, pairs)
  for from = 1, #pairs, 2000 do
    redis.call('HSET', key, unpack(pairs, from, math.min(from + 1999, #pairs)))
  end
end

local function write_run(run, ARGV, micros, now)
  if run.row and (#run.set > 0 or #run.del > 0) then
    run.set[#run.set + 1] = '_v'
    -- From the clock, so that a version lost with a rollback is never given to another content.
    run.set[#run.set + 1] = string.format('%.0f', math.max(micros, tonumber(run.version) + 1))
    hset(run.row, run.set)
    for _, field in ipairs(run.del) do redis.call('HDEL', run.row, field) end
  end
  for _, op in ipairs(run.ops) do apply_op(op) end
  for _, group in ipairs(run.groups) do
    local key = group.seen[1]
    redis.call('HSET', key, unpack(ARGV, group.at, group.at + 2 * group.count - 1))
    redis.call('EXPIREAT', key, group.expiry, 'NX')
    if group.redrive > 0 then redis.call('EXPIREAT', key, group.expiry, 'GT') end -- a new fence, an old bucket
  end
  for _, entry in ipairs(run.entries) do write_entry(entry, now) end
end

local function commit(KEYS, ARGV)
  local key_at, arg_at = 3, 0
  local function key() key_at = key_at + 1 return KEYS[key_at] end
  local function arg() arg_at = arg_at + 1 return ARGV[arg_at] end

  local function read_group(first)
    local group = { first = first, kind = arg(), redrive = tonumber(arg()), seen = {} }
    for i = 1, tonumber(arg()) do group.seen[i] = key() end
    group.expiry, group.oldest, group.newest, group.count = arg(), tonumber(arg()), tonumber(arg()), tonumber(arg())
    group.at = arg_at + 1
    arg_at = arg_at + 2 * group.count
    return group
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
    local run = { version = arg(), set = {}, del = {}, groups = {}, ops = {}, entries = {}, ids = {}, copies = {}, statuses = {}, count = 0 }
    if run.version ~= '' then run.row = key() end
    for i = 1, 2 * tonumber(arg()) do run.set[i] = arg() end
    for i = 1, tonumber(arg()) do run.del[i] = arg() end
    run.outbox = arg()
    for i = 1, tonumber(arg()) do
      run.groups[i] = read_group(run.count)
      run.count = run.count + run.groups[i].count
    end
    for i = 1, tonumber(arg()) do
      run.ops[i] = { event = tonumber(arg()), name = arg(), member = arg(), number = arg(), limit = arg(), key = key() }
    end
    for i = 1, tonumber(arg()) do run.entries[i] = read_entry() end
    return run
  end

  local time = redis.call('TIME')
  local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local now = math.floor(micros / 1000)
  local horizon, skew, record = tonumber(arg()), tonumber(arg()), arg()
  local reply, outboxes = { '' }, {}
  if record ~= '' then
    local text = string.format('%s %.0f', record, now)
    reply[1] = redis.call('SET', KEYS[1], text, 'EX', 604800, 'GET') or ''
  end
  for n = 1, tonumber(arg()) do
    local run = read_run()
    for _, group in ipairs(run.groups) do check_group(group, ARGV, run, now, horizon, skew) end
    if run.ops[1] then check_ops(run) end
    for _, at in ipairs(run.copies) do
      run.statuses[at] = run.statuses[at] or { 'conflict', '' } -- two copies of one event: the second must see the first
    end
    local refused = next(run.statuses) ~= nil
    if not refused and run.row and not row_is_fresh(run) then refused = true end
    if refused then
      local statuses = {}
      for i = 1, run.count do
        local status = run.statuses[i] or { 'conflict', '' }
        statuses[2 * i - 1], statuses[2 * i] = status[1], status[2]
      end
      reply[n + 1] = statuses
    else
      write_run(run, ARGV, micros, now)
      if run.outbox ~= '' then outboxes[#outboxes + 1] = run.outbox end
      reply[n + 1] = 1
    end
  end
  if outboxes[1] then
    redis.call('SET', KEYS[2], table.concat(outboxes))
    redis.call('ZADD', KEYS[3], now, KEYS[2])
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
