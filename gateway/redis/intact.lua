-- intact reports whether the log still has what a server has read of it: in the same epoch, the entry at offset
-- has id. If that entry was trimmed, strict decides.
local function intact(log, meta, epoch, offset, id, strict)
	local n, first = tonumber(meta[2]), tonumber(meta[3])
	if n > 0 and redis.call('EXISTS', log) == 0 then return false end
	if meta[1] ~= epoch or offset == '0' then return true end
	local at = tonumber(offset)
	if at > n then return false end
	if at == n then return meta[4] == id end
	if at < first then return not strict end
	local held = redis.call('XRANGE', log, offset .. '-0', offset .. '-0')[1]
	return held ~= nil and string.sub(held[2][2], 1, 16) == id
end

