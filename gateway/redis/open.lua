#!lua
-- Makes the log if there is none. First it does on a key of its own whatever the other scripts do, so that a right
-- that is missing is found here and not in the middle of a change.
-- KEYS: meta, log, scratch. ARGV: 1 epoch of a new log, 2 format, 3 channel.
local s = KEYS[3]
redis.call('DEL', s)
redis.call('XADD', s, '1-0', 'm', '', 't', '')
redis.call('XTRIM', s, 'MINID', '~', '1-0')
redis.call('XRANGE', s, '-', '+', 'COUNT', 1)
redis.call('EXISTS', s)
redis.call('DEL', s)
redis.call('HSET', s, 'n', '0')
redis.call('HMGET', s, 'n')
redis.call('DEL', s)
redis.call('SET', s, '', 'PX', 1000)
redis.call('GET', s)
redis.call('MGET', s)
redis.call('PEXPIRE', s, 1000)
redis.call('DEL', s)
redis.call('PUBLISH', ARGV[3], '')
local time = redis.call('TIME')
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'format')
if meta[1] then
	if meta[2] ~= ARGV[2] then return redis.error_reply('LIMPETFORMAT ' .. tostring(meta[2])) end
	redis.call('XRANGE', KEYS[2], '-', '-') -- its type
	return meta[1]
end
if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then return redis.error_reply('LIMPETFOREIGN there is no ' .. KEYS[1]) end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'n', '0', 'f', '1', 'last', '', 'format', ARGV[2],
	'since', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return ARGV[1]
