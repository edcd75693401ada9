package redis_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

const secret = "s3cr3t!x"

// Open says why it cannot use a server, and what to do. No text has a password in it.
func TestOpenRefuses(t *testing.T) {
	e := start(t)
	e.do("ACL", "SETUSER", "wrong", "on", ">"+secret, "~{limpet}:*", "&{limpet}:*", "+@all")
	e.do("ACL", "SETUSER", "noeval", "on", ">"+secret, "~*", "&*", "+@all", "-eval", "-evalsha")
	e.do("ACL", "SETUSER", "noxadd", "on", ">"+secret, "~*", "&*", "+@all", "-xadd")
	e.do("ACL", "SETUSER", "nobell", "on", ">"+secret, "~*", "resetchannels", "+@all")
	e.do("ACL", "SETUSER", "otherkeys", "on", ">"+secret, "~other:*", "&*", "+@all")
	full, evicting, old := start(t, "--maxmemory", "100kb"), start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), newProxy(t, e.addr())
	volatile, locked := start(t, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), start(t, "--requirepass", secret)
	node, replica := start(t, "--cluster-enabled", "yes"), start(t, "--replicaof", "127.0.0.1 "+newProxy(t, e.addr()).port())
	old.from, old.into = []byte("redis_version:7.0."), []byte("redis_version:6.2.")
	e.do("SET", "{string}:log", "x")
	e.do("XADD", "{stream}:log", "*", "a", "b")
	e.do("HSET", "{newer}:meta", "epoch", "e", "n", "0", "f", "1", "last", "", "since", "0", "format", "2")
	e.do("LPUSH", "{list}:meta", "x")
	for name, c := range map[string]struct {
		url, log string
		want     error
	}{
		"wrong password":       {"redis://wrong:" + secret + "y@" + e.addr(), "", redis.ErrDenied},
		"no password":          {locked.url(), "", redis.ErrDenied},
		"wrong default":        {"redis://:" + secret + "y@" + locked.addr(), "", redis.ErrDenied},
		"no right to EVAL":     {"redis://noeval:" + secret + "@" + e.addr(), "", redis.ErrDenied},
		"no right to XADD":     {"redis://noxadd:" + secret + "@" + e.addr(), "", redis.ErrDenied},
		"no right to a key":    {"redis://otherkeys:" + secret + "@" + e.addr(), "", redis.ErrDenied},
		"no right to the bell": {"redis://nobell:" + secret + "@" + e.addr(), "", redis.ErrDenied},
		"full":                 {full.url(), "", redis.ErrFull},
		"evicts":               {evicting.url(), "", redis.ErrPolicy},
		"evicts what expires":  {volatile.url(), "", redis.ErrPolicy},
		"old":                  {"redis://" + old.addr(), "", redis.ErrVersion},
		"replica":              {replica.url(), "", redis.ErrReadOnly},
		"node of a cluster":    {node.url(), "", redis.ErrCluster},
		"a string":             {e.url(), "string", redis.ErrForeign},
		"a stream of others":   {e.url(), "stream", redis.ErrForeign},
		"a list":               {e.url(), "list", redis.ErrForeign},
		"newer":                {e.url(), "newer", redis.ErrFormat},
		"no server":            {"redis://user:" + secret + "@127.0.0.1:1", "", redis.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			s, err := redis.Open(t.Context(), c.url, &redis.Options{Log: c.log, Timeout: 3 * time.Second})
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if s != nil || strings.Contains(err.Error(), "s3cr3t") || time.Since(began) > 30*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			t.Log(err)
		})
	}
	for _, url := range []string{"", "http://u:" + secret + "@h", "redis://u:" + secret + "@h:port", "redis://u:" + secret + "%zz@h", "redis://h/x", "redis://h?nothing=" + secret} {
		if _, err := redis.Open(t.Context(), url, nil); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("URL %q: %v", url, err)
		}
	}
	for _, o := range []redis.Options{{Log: "a{b}"}, {Log: strings.Repeat("x", 65)}, {MaxAge: -1}, {Replicas: -1}, {ReplicaTimeout: time.Minute}, {Timeout: -1}} {
		if _, err := redis.Open(t.Context(), e.url(), &o); err == nil || !strings.Contains(err.Error(), "Options.") {
			t.Errorf("options %+v: %v", o, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := redis.Open(ctx, "redis://127.0.0.1:1", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// A user with the rights that docs/engines.md names can do everything.
func TestRights(t *testing.T) {
	text, err := os.ReadFile("../../docs/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("`(~{NAME}:[^`]*)`").FindSubmatch(text)
	if found == nil {
		t.Fatal("docs/engines.md names no rights")
	}
	e := start(t)
	user := []any{"ACL", "SETUSER", "limpet", "on", ">" + secret}
	for _, right := range strings.Fields(strings.ReplaceAll(string(found[1]), "{NAME}", "{load}")) {
		user = append(user, right)
	}
	e.do(user...)
	o := *all
	o.MaxLen, o.MaxAge = 5, time.Hour
	s, l := open(t, "redis://limpet:"+secret+"@"+e.addr(), &o), &load{t: t, sessions: 1}
	done, err := commit(s, 0, l, 0, 9)
	if err == nil {
		_, err = s.Known(t.Context(), "who 0", []wire.ID{messageID(0, 1)})
	}
	if err != nil || done.Offset != 9 || s.Sync(t.Context()) != nil || len(readAll(t, s)) != 5 {
		t.Errorf("%+v, %v, %+v", done, err, s.View())
	}
	e.do("DEL", "{load}:log")
	if err := s.Sync(t.Context()); err != nil || s.View().First != 10 {
		t.Errorf("%v, %+v", err, s.View())
	}
	wait := *all
	wait.Replicas, wait.ReplicaTimeout, wait.Timeout = 1, 10*time.Millisecond, 100*time.Millisecond
	if _, err := commit(open(t, "redis://limpet:"+secret+"@"+e.addr(), &wait), 0, &load{}, 0, 0); !errors.Is(err, redis.ErrReplicas) {
		t.Errorf("WAIT: %v", err)
	}
}

func commit(s *redis.Store, version uint64, l *load, have uint64, n int) (server.Committed, error) {
	return s.Commit(context.Background(), l.change(0, have, version, n))
}

// A Redis that is full does nothing of a Commit, says so, and can still be read. Later it goes on.
func TestFullRedis(t *testing.T) {
	e, l := start(t, "--maxmemory", "100mb"), &load{t: t, sessions: 1}
	s := open(t, e.url(), all)
	done, err := commit(s, 0, l, 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	e.do("CONFIG", "SET", "maxmemory", "1")
	if _, err := commit(s, done.Version, l, 3, 4); !errors.Is(err, redis.ErrFull) || errors.Is(err, redis.ErrUncertain) && s.Stats().Unknown == 0 {
		t.Errorf("a Commit at a Redis that is full: %v", err)
	}
	if have, _ := l.load(s, "session 0"); have != 3 || s.Sync(t.Context()) != nil || s.View().Head != 3 {
		t.Errorf("half of a Commit was done: %d, %+v", have, s.View())
	}
	e.do("CONFIG", "SET", "maxmemory", "100mb")
	if done, err = commit(s, done.Version, l, 3, 4); err != nil || done.Offset != 7 {
		t.Errorf("%+v, %v", done, err)
	}
	e.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	eventually(t, "Health finds the policy", 5*time.Second, func() bool { return errors.Is(s.Health(), redis.ErrPolicy) })
	l.acked = make([]atomic.Uint64, 1)
	l.check(s)
}

// A key that has another type in the place of a record, an id or the log: an error, and nothing is done.
func TestForeignKeys(t *testing.T) {
	e, l := start(t), &load{t: t, sessions: 1}
	s := open(t, e.url(), all)
	done, err := commit(s, 0, l, 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"{load}:s:session 0", "{load}:meta", "{load}:log"} {
		e.do("RENAME", key, "aside")
		e.do("LPUSH", key, "x")
		if _, err := commit(s, done.Version, l, 3, 1); !errors.Is(err, redis.ErrForeign) || errors.Is(err, redis.ErrUncertain) && s.Stats().Unknown == 0 {
			t.Errorf("a list as %s: %v", key, err)
		}
		e.do("RENAME", "aside", key)
	}
	if done, err = commit(s, done.Version, l, 3, 1); err != nil || done.Offset != 4 {
		t.Errorf("%+v, %v", done, err)
	}
	e.do("XADD", "{load}:log", "9-0", "a", "b") // another program writes to the stream
	if _, err := commit(s, done.Version, l, 4, 1); !errors.Is(err, redis.ErrForeign) {
		t.Errorf("a stream with the entry of another program: %v", err)
	}
	if have, _ := l.load(s, "session 0"); have != 4 {
		t.Errorf("the record has %d", have)
	}
}

// SCRIPT FLUSH takes the scripts away, and no call fails.
func TestScriptFlush(t *testing.T) {
	for _, o := range []*redis.Options{all, {Log: "load", MaxLen: -1, Replicas: 0}} {
		e, l := start(t), &load{t: t, sessions: 1}
		s := open(t, e.url(), o)
		done, err := commit(s, 0, l, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		e.do("SCRIPT", "FLUSH")
		if done, err = commit(s, done.Version, l, 1, 1); err != nil || done.Offset != 2 {
			t.Errorf("%+v, %v", done, err)
		}
		e.do("SCRIPT", "FLUSH")
		if err := s.Sync(t.Context()); err != nil || s.View().Head != 2 {
			t.Errorf("%v, %+v", err, s.View())
		}
	}
}

// A script that blocks Redis delays a Commit; one that blocks it for long is an error that says so.
func TestBusyRedis(t *testing.T) {
	e, l := start(t, "--busy-reply-threshold", "50"), &load{t: t, sessions: 1}
	o := *all
	o.Timeout = time.Second
	s, patient := open(t, e.url(), &o), open(t, e.url(), all)
	done, err := commit(s, 0, l, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	block := func() {
		blocked := make(chan struct{})
		go func() {
			close(blocked)
			_ = e.admin().Eval(context.Background(), "while true do end", nil).Err()
		}()
		<-blocked
		eventually(t, "Redis is busy", 20*time.Second, func() bool {
			err := e.admin().Get(context.Background(), "x").Err()
			return err != nil && strings.HasPrefix(err.Error(), "BUSY")
		})
	}
	block()
	began := time.Now()
	if _, err := commit(s, done.Version, l, 1, 1); !errors.Is(err, redis.ErrBusy) || errors.Is(err, redis.ErrUncertain) && s.Stats().Unknown == 0 {
		t.Errorf("a Commit at a busy Redis: %v", err)
	}
	if _, _, err := s.Load(t.Context(), "session 0"); !errors.Is(err, redis.ErrBusy) {
		t.Errorf("Load at a busy Redis: %v", err)
	}
	if err := s.Sync(t.Context()); !errors.Is(err, redis.ErrBusy) {
		t.Errorf("Sync at a busy Redis: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("three calls of %v took %v", o.Timeout, took)
	}
	e.do("SCRIPT", "KILL")
	have, now := l.load(s, "session 0") // one of those that failed may have been done in the end
	block()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-time.After(200 * time.Millisecond)
		_ = e.admin().ScriptKill(context.Background()).Err()
	}()
	if done, err = commit(patient, now, l, have, 1); err != nil || done.Offset != have+1 {
		t.Errorf("a Commit that waits for a script: %+v, %v", done, err)
	}
	<-ended
}
