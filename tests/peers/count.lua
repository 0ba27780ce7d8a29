-- One call for a batch, as bench-limit has it: an event that was seen before counts for nothing and answers 0, another with its page's
-- new count.
local out = {}
for i = 2, #ARGV, 2 do
  if redis.call('SET', ARGV[1] .. ':' .. ARGV[i], 1, 'NX', 'EX', 259200) then
    out[#out + 1] = redis.call('HINCRBY', ARGV[1], ARGV[i + 1], 1)
  else
    out[#out + 1] = 0
  end
end
return out
