#!lua flags=allow-oom
-- The record of a session. A replica must refuse it, as in read.lua.
return redis.call('GET', KEYS[1])
