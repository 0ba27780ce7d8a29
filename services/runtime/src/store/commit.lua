#!lua name=oncue_LIBRARY
-- The one atomic step that makes handled events real: seen-marks, age fence, row versions, state and outputs.
--
-- A call holds runs; a run holds the events of one key that were handled in order on one row. A run is applied whole
-- or not at all, so everything is checked before the first write: a script is not rolled back on an error.
--
-- ARGV: horizon, grace, skew (ms), number of runs; then for each run
--   version read ('' = no row), set count, (field, value)*, delete count, field*, event count, and for each event
--     kind (a = apply, d = dead letter, q = only ask), id (16 bytes), time the fence hangs on (ms), number of the
--     redrive (0 = none), payload hash (8 bytes), seen keys,
--     mark expiry (unix s), operation count, (name, field or member, number, limit)*, outbox ('' = none)
-- KEYS: the counter of commits; then in the same order: for each run the row (if any); for each event its seen keys, one key per operation, and
--   for an outbox its key and the index of unpublished outboxes.
-- Reply: commits so far, which only goes down when Redis has lost some, and the time (ms) of the one before; then for
-- each event a status and a detail.
--   applied | duplicate (detail: outbox still to be published) | dead | conflict | too_old | clock | id_reuse | invalid

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

-- Status of one event if it alone stood in the way, or nil.
local function check_event(e, now, horizon, skew, plan)
  for _, key in ipairs(e.seen) do
    local mark = redis.call('HGET', key, e.id)
    if mark then
      if string.sub(mark, 1, 1) ~= 'd' then
        if string.sub(mark, 2, 9) ~= e.payload and e.kind ~= 'd' then return 'id_reuse', '' end
        local committed = redis.call('ZSCORE', e.unpublished, e.outbox_key)
        if committed and tonumber(committed) > 0 then return 'duplicate', redis.call('GET', e.outbox_key) or '' end
        return 'duplicate', ''
      end
      -- A dead letter stays dead, unless an operator has redriven it since.
      if e.redrive <= (tonumber(string.sub(mark, 10)) or 0) then return 'dead', '' end
    end
  end
  if e.kind == 'd' then return end
  if e.kind == 'q' then return 'conflict', '' end
  if now > e.time + horizon then return 'too_old', '' end
  if e.time > now + skew then return 'clock', '' end
  local own = beside(plan)
  for _, op in ipairs(e.ops) do
    local why = check_op(op, own)
    if why then return 'invalid', why end
  end
  for key, kind in pairs(own.kinds) do plan.kinds[key] = kind end
  for field, value in pairs(own.values) do plan.values[field] = value end
end

local function hset(key, pairs)
  for from = 1, #pairs, 2000 do
    redis.call('HSET', key, unpack(pairs, from, math.min(from + 1999, #pairs)))
  end
end

local function write_event(e, now)
  for _, op in ipairs(e.ops) do apply_op(op) end
  local redrive = e.kind == 'd' and e.redrive > 0 and string.format('%.0f', e.redrive) or ''
  local new = redis.call('HSET', e.seen[1], e.id, e.kind .. e.payload .. redrive) == 1
  if new and redis.call('HLEN', e.seen[1]) == 1 then
    redis.call('EXPIREAT', e.seen[1], e.expiry)
  elseif e.redrive > 0 then
    redis.call('EXPIREAT', e.seen[1], e.expiry, 'GT') -- its fence is a new one, and its bucket an old one
  end
  if e.outbox ~= '' then
    redis.call('SET', e.outbox_key, e.outbox)
    redis.call('ZADD', e.unpublished, now, e.outbox_key)
  end
end

local function commit(KEYS, ARGV)
  local key_at, arg_at = 0, 0
  local function key() key_at = key_at + 1 return KEYS[key_at] end
  local function arg() arg_at = arg_at + 1 return ARGV[arg_at] end

  local function read_event()
    local e = { kind = arg(), id = arg(), time = tonumber(arg()), redrive = tonumber(arg()) }
    e.payload, e.seen, e.ops = arg(), {}, {}
    for _ = 1, tonumber(arg()) do e.seen[#e.seen + 1] = key() end
    e.expiry = arg()
    for i = 1, tonumber(arg()) do
      e.ops[i] = { name = arg(), member = arg(), number = arg(), limit = arg(), key = key() }
    end
    e.outbox, e.outbox_key, e.unpublished = arg(), key(), key()
    return e
  end

  local function read_run()
    local run = { version = arg(), set = {}, del = {}, events = {} }
    if run.version ~= '' then run.row = key() end
    for i = 1, 2 * tonumber(arg()) do run.set[i] = arg() end
    for i = 1, tonumber(arg()) do run.del[i] = arg() end
    for i = 1, tonumber(arg()) do run.events[i] = read_event() end
    return run
  end

  local time = redis.call('TIME')
  local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local now = math.floor(micros / 1000)
  local horizon, grace, skew = tonumber(arg()), tonumber(arg()), tonumber(arg())
  local counter = key()
  local reply = { string.format('%.0f', redis.call('HINCRBY', counter, 'n', 1)), redis.call('HGET', counter, 'at') or '0' }
  redis.call('HSET', counter, 'at', string.format('%.0f', now))
  for _ = 1, tonumber(arg()) do
    local run = read_run()
    local refused = false
    local statuses, ids, plan = {}, {}, { kinds = {}, values = {} }
    for i, e in ipairs(run.events) do
      local status, detail = check_event(e, now, horizon, skew, plan)
      if ids[e.id] and not status then status = 'conflict' end -- two copies of one event: the second must see the first
      ids[e.id] = true
      statuses[i] = { status, detail }
      refused = refused or status ~= nil
    end
    if run.row and not refused then
      local kind = redis.call('TYPE', run.row).ok
      if kind ~= 'none' and kind ~= 'hash' then
        refused = true
        for i = 1, #run.events do statuses[i] = { 'invalid', 'the row is a ' .. kind } end
      elseif (redis.call('HGET', run.row, '_v') or '0') ~= run.version then
        refused = true
      end
    end
    if not refused then
      if run.row and (#run.set > 0 or #run.del > 0) then
        run.set[#run.set + 1] = '_v'
        -- From the clock, so that a version lost with a rollback is never given to another content.
        run.set[#run.set + 1] = string.format('%.0f', math.max(micros, tonumber(run.version) + 1))
        hset(run.row, run.set)
        for _, field in ipairs(run.del) do redis.call('HDEL', run.row, field) end
      end
      for _, e in ipairs(run.events) do write_event(e, now) end
    end
    for i = 1, #run.events do
      local status = statuses[i]
      reply[#reply + 1] = status[1] or (refused and 'conflict' or 'applied')
      reply[#reply + 1] = status[2] or ''
    end
  end
  return reply
end

redis.register_function('oncue_commit_LIBRARY', commit)
