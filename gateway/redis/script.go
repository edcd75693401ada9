package redis

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed intact.lua
var intactLua string

//go:embed commit.lua
var commitLua string

//go:embed read.lua
var readLua string

//go:embed load.lua
var loadLua string

//go:embed open.lua
var openLua string

//go:embed mend.lua
var mendLua string

//go:embed trim.lua
var trimLua string

var (
	commitText   = withIntact(commitLua)
	commitScript = redis.NewScript(commitText)
	readScript   = redis.NewScript(withIntact(readLua))
	loadScript   = redis.NewScript(loadLua)
	openScript   = redis.NewScript(openLua)
	mendScript   = redis.NewScript(mendLua)
	trimScript   = redis.NewScript(trimLua)
)

// withIntact adds the function intact after the first line, which has the flags.
func withIntact(script string) string {
	flags, rest, _ := strings.Cut(script, "\n")
	return flags + "\n" + intactLua + rest
}

// openLog makes the log if there is none, and returns its epoch.
func (s *Store) openLog(ctx context.Context) (string, error) {
	return openScript.Run(ctx, s.client, []string{s.keys.meta, s.keys.log, s.keys.scratch}, newEpoch(), format, s.keys.bell).Text()
}

// mend gives the log another epoch, unless it no longer has the one that was found damaged.
func (s *Store) mend(ctx context.Context, damaged, first string) error {
	epoch := newEpoch()
	now, err := mendScript.Run(ctx, s.client, []string{s.keys.meta, s.keys.log}, damaged, epoch, first, s.keys.bell).Text()
	if err == nil && now == epoch {
		s.stats.divergences.Add(1)
	}
	if err == redis.Nil {
		return nil // the log is gone
	}
	return err
}

// reading is an answer of the script read.
type reading struct {
	epoch    string
	head     uint64 // of the log in Redis
	first    uint64
	last     string // id of the entry at head
	since    int64  // in Unix milliseconds
	from     uint64 // of the first of texts
	texts    []any  // entry, time, entry, time ...
	repaired bool   // the log was damaged or gone: nothing else is set
}

// read reads entries, and what the log has. It repairs a log that is not what this server has read.
func (s *Store) read(ctx context.Context, from uint64, most, bytes int) (r reading, err error) {
	s.mu.Lock()
	epoch, offset, id, strict := s.tail.epoch, s.tail.head, s.tail.headID, ""
	if s.tail.strict {
		strict = "1"
	}
	s.mu.Unlock()
	reply, err := readScript.Run(ctx, s.client, []string{s.keys.meta, s.keys.log}, epoch, offset, id, strict, from, most, bytes).Slice()
	if err != nil {
		return r, err
	}
	switch word(reply, 0) {
	case "gone":
		_, err = s.openLog(ctx)
		return reading{repaired: true}, err
	case "mend":
		return reading{repaired: true}, s.mend(ctx, word(reply, 1), word(reply, 2))
	}
	r.epoch, r.last = word(reply, 1), word(reply, 4)
	for i, to := range map[int]*uint64{2: &r.head, 3: &r.first, 6: &r.from} {
		if *to, err = strconv.ParseUint(word(reply, i), 10, 64); err != nil {
			return r, fmt.Errorf("%w (%s)", ErrForeign, s.keys.meta)
		}
	}
	if r.since, err = strconv.ParseInt(word(reply, 5), 10, 64); err != nil || r.epoch == "" {
		return r, fmt.Errorf("%w (%s)", ErrForeign, s.keys.meta)
	}
	r.texts = reply[7:]
	return r, nil
}

// word returns an element of an answer as text, "" if it is none.
func word(reply []any, i int) string {
	if i >= len(reply) {
		return ""
	}
	text, _ := reply[i].(string)
	return text
}

// about is what Redis says of itself.
type about struct {
	run    string // changes with each start
	policy error
}

// look asks Redis what it is. An error means that it cannot be used.
func (s *Store) look(ctx context.Context) (a about, err error) {
	node, err := s.node(ctx)
	if err != nil {
		return a, err
	}
	text, err := node.Info(ctx).Result()
	if err != nil {
		return a, err
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	version, _, _ := strings.Cut(info["redis_version"], ".")
	n, _ := strconv.Atoi(version)
	_, cluster := s.client.(*redis.ClusterClient)
	switch {
	case n < 7:
		return a, &failure{final, ErrVersion, "it is " + s.clean(info["redis_version"])}
	case info["redis_mode"] == "cluster" && !cluster:
		return a, &failure{final, ErrCluster, ""}
	case info["role"] != "master":
		return a, &failure{again, ErrReadOnly, "its role is " + s.clean(info["role"])}
	}
	a.run = info["run_id"]
	if policy := info["maxmemory_policy"]; policy != "noeviction" && info["maxmemory"] != "0" {
		a.policy = &failure{final, ErrPolicy, "it is " + s.clean(policy)}
	}
	return a, nil
}

// node returns the server that has the log.
func (s *Store) node(ctx context.Context) (redis.Cmdable, error) {
	if c, ok := s.client.(*redis.ClusterClient); ok {
		return c.MasterForKey(ctx, s.keys.meta)
	}
	return s.client, nil
}
