package main

// ofRedis breaks the store in Redis. Its guards start redis-server: gateway/install.sh.
var ofRedis = []mutation{
	{
		name:    "gateway/redis: a stale version is accepted",
		file:    "gateway/redis/commit.lua",
		search:  "if version ~= ARGV[1] then return {'conflict'} end\n",
		replace: "\n",
		test:    "-run ^TestStore$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: ids that are known are accepted again",
		file:    "gateway/redis/commit.lua",
		search:  "\tif #known > 1 then return known end\n",
		replace: "\n",
		test:    "-run ^TestStore$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: a repeated Commit does not know itself",
		file:    "gateway/redis/commit.lua",
		search:  "\tif version == ARGV[2] then ",
		replace: "\tif false then ",
		test:    "-run ^TestLostAnswer$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: a conflict after a lost answer counts as nothing done",
		file:    "gateway/redis/commit.go",
		search:  "\t\t\t\tif doubt { // the change may have been done, and another one after it\n",
		replace: "\t\t\t\tif false {\n",
		test:    "-run ^TestLostAnswer$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: what was read is not looked up again",
		file:    "gateway/redis/intact.lua",
		search:  "\tif meta[1] ~= epoch or offset == '0' then return true end\n",
		replace: "\tdo return true end\n",
		test:    "-run ^TestDamagedLog$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: a hole is read over",
		file:    "gateway/redis/read.lua",
		search:  "\t\tif entry[1] ~= string.format('%.0f-0', at) then ",
		replace: "\t\tif false then ",
		test:    "-run ^TestDamagedLog$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: a change that too few replicas have is acknowledged",
		file:    "gateway/redis/commit.go",
		search:  "\t\tcase n < s.opt.Replicas:\n",
		replace: "\t\tcase n < 0:\n",
		test:    "-run ^TestReplicasThatHaveEverything$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: a Redis that evicts is used",
		file:    "gateway/redis/script.go",
		search:  "policy != \"noeviction\" &&",
		replace: "policy == \"\" &&",
		test:    "-run ^TestOpenRefuses$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: the error has the URL with its password",
		file:    "gateway/redis/redis.go",
		search:  "\t\treturn nil, \"\", errors.New(\"gateway/redis: the URL cannot be parsed; use redis://user:password@host:port, with the password escaped\")\n",
		replace: "\t\treturn nil, \"\", err\n",
		test:    "-run ^TestOpenRefuses$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: each reader of old messages asks Redis",
		file:    "gateway/redis/history.go",
		search:  "\tl := h.loading[from]\n",
		replace: "\tl := h.loading[^from]\n",
		test:    "-run ^TestHistoryIsShared$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: old messages stay",
		file:    "gateway/redis/trim.lua",
		search:  "redis.call('HSET', KEYS[1], 'f', string.format('%.0f', at))\n",
		replace: "\n",
		test:    "-run ^TestMaxAge$ ./gateway/redis",
	},
	{
		name:    "gateway/redis: Health does not see that Redis is silent",
		file:    "gateway/redis/store.go",
		search:  "\tcase time.Since(t.heard) > staleAfter:\n",
		replace: "\tcase time.Since(t.heard) < 0:\n",
		test:    "-run ^TestSilentRedis$ ./gateway/redis",
	},
}
