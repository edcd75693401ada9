#!lua
-- server.Store.Commit in one step. Everything that can refuse comes before the first write, and XADD, which can
-- fail by the type or the last id of its key, is the first write: so all is done or nothing.
-- KEYS: meta, log, session, then one key for each id: those of the entries, those of the refused.
-- ARGV: 1 version, 2 new version, 3 lifetime of the record, 4 kind and record, 5 lifetime of the ids, 6 oldest or '',
-- 7 epoch, 8 offset and 9 id of the newest entry that this server has read, 10 bound of the log or 0, 11 channel,
-- 12 number of entries, then the entries, then the values of the refused ids.
local none = '0000000000000000'
local current, version = redis.call('GET', KEYS[3]), none
if current then
	version = string.sub(current, 1, 16)
	if version == ARGV[2] then -- this very change was done before
		redis.call('PEXPIRE', KEYS[3], ARGV[3]) -- a write, so that WAIT waits for all before it
		return {'done', string.sub(current, 17, 32)}
	end
	if string.sub(current, 33, 33) == 'x' then version = none end
end
if version ~= ARGV[1] then return {'conflict'} end

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'f', 'last', 'since')
if not meta[1] then return {'gone'} end
local n, first = tonumber(meta[2]), tonumber(meta[3])
if not intact(KEYS[2], meta, ARGV[7], ARGV[8], ARGV[9], false) then return {'mend', meta[1]} end

if #KEYS > 3 then
	local known = {'known'}
	for i, value in ipairs(redis.call('MGET', unpack(KEYS, 4))) do
		if value then
			known[#known + 1] = tostring(i - 1)
			known[#known + 1] = value
		end
	end
	if #known > 1 then return known end
end
if ARGV[6] ~= '' and tonumber(ARGV[6]) <= tonumber(meta[5]) then return {'forgotten'} end

local entries, at, time = tonumber(ARGV[12]), none, redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for i = 1, entries do
	at = string.format('%016.0f', n + i)
	redis.call('XADD', KEYS[2], string.format('%.0f-0', n + i), 'm', ARGV[12 + i], 't', now)
end
for i = 1, entries do
	redis.call('SET', KEYS[3 + i], 'a' .. string.format('%016.0f', n + i) .. string.sub(ARGV[12 + i], 17, 24), 'PX', ARGV[5])
end
for i = entries + 1, #KEYS - 3 do
	redis.call('SET', KEYS[3 + i], ARGV[12 + i], 'PX', ARGV[5])
end
if entries > 0 then
	n = n + entries
	local last, most = string.sub(ARGV[12 + entries], 1, 16), tonumber(ARGV[10])
	if most > 0 and n - first + 1 > most then
		first = n - most + 1
		redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f-0', first))
	end
	redis.call('HSET', KEYS[1], 'n', string.format('%.0f', n), 'f', string.format('%.0f', first), 'last', last)
end
redis.call('SET', KEYS[3], ARGV[2] .. at .. ARGV[4], 'PX', ARGV[3])
if entries > 0 then redis.call('PUBLISH', ARGV[11], '') end
return {'done', at}
