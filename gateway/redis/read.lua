#!lua flags=allow-oom
-- The bounds of the log, and its entries from an offset on, checked in the same step. It is not marked as one that
-- writes nothing: a replica must refuse it, since what it has may be old.
-- KEYS: meta, log. ARGV: 1 epoch, 2 offset and 3 id of the newest entry that this server has read, 4 strict or '',
-- 5 from, 6 most entries, 7 most bytes of them.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'f', 'last', 'since')
if not meta[1] then return {'gone'} end
if not intact(KEYS[2], meta, ARGV[1], ARGV[2], ARGV[3], ARGV[4] ~= '') then return {'mend', meta[1], '0'} end
local n, first = tonumber(meta[2]), tonumber(meta[3])
local at, left, bytes = math.max(tonumber(ARGV[5]), first), tonumber(ARGV[6]), tonumber(ARGV[7])
local reply = {'ok', meta[1], meta[2], meta[3], meta[4], meta[5], string.format('%.0f', at)}
while at <= n and left > 0 and bytes > 0 do
	local some = redis.call('XRANGE', KEYS[2], string.format('%.0f-0', at), '+', 'COUNT', math.min(left, 64))
	if #some == 0 then return {'mend', meta[1], string.format('%.0f', n + 1)} end
	for _, entry in ipairs(some) do
		if entry[1] ~= string.format('%.0f-0', at) then return {'mend', meta[1], string.match(entry[1], '^%d+')} end
		reply[#reply + 1] = entry[2][2]
		reply[#reply + 1] = entry[2][4]
		at, left, bytes = at + 1, left - 1, bytes - #entry[2][2]
		if left == 0 or bytes <= 0 then break end
	end
end
return reply
