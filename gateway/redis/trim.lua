#!lua
-- Drops the entries that are too old, at most 10,000 at a time, and returns how many.
-- KEYS: meta, log. ARGV: 1 age in milliseconds, 2 channel.
local meta, time = redis.call('HMGET', KEYS[1], 'n', 'f'), redis.call('TIME')
if not meta[1] then return 0 end
local n, first, before = tonumber(meta[1]), tonumber(meta[2]), time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1])
local at, over = first, false
for _ = 1, 100 do
	local some = redis.call('XRANGE', KEYS[2], string.format('%.0f-0', at), '+', 'COUNT', 100)
	for _, entry in ipairs(some) do
		over = tonumber(entry[2][4]) > before
		if over then break end
		at = tonumber(string.match(entry[1], '^%d+')) + 1
	end
	if over or at > n or #some == 0 then break end
end
if at == first then return 0 end
redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f-0', at))
redis.call('HSET', KEYS[1], 'f', string.format('%.0f', at))
redis.call('PUBLISH', ARGV[2], '')
return at - first
