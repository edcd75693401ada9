#!lua
-- Gives the log another epoch, because it has lost entries, and begins it where it is whole.
-- KEYS: meta, log. ARGV: 1 epoch that was found damaged, 2 new epoch, 3 the least first offset, 4 channel.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'f')
if meta[1] ~= ARGV[1] then return meta[1] end
local first, held = math.max(tonumber(meta[3]), tonumber(ARGV[3])), redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if held then
	first = math.max(first, tonumber(string.match(held[1], '^%d+')))
else
	first = tonumber(meta[2]) + 1
	if first > 1 and redis.call('EXISTS', KEYS[2]) == 0 then -- an empty log that exists
		redis.call('XADD', KEYS[2], string.format('%.0f-0', first - 1), 'm', '', 't', '')
		redis.call('XTRIM', KEYS[2], 'MAXLEN', '=', 0)
	end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'f', string.format('%.0f', first))
redis.call('PUBLISH', ARGV[4], '')
return ARGV[2]
