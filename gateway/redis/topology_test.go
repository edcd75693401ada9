package redis_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	client "github.com/redis/go-redis/v9"
)

// In a cluster all keys of a log are in one slot.
func TestCluster(t *testing.T) {
	e := start(t, "--cluster-enabled", "yes")
	e.do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	eventually(t, "the cluster is up", 30*time.Second, func() bool {
		return strings.Contains(fmt.Sprint(e.do("CLUSTER", "INFO")), "cluster_state:ok")
	})
	url := e.url() + "?addr=" + e.addr()
	l := &load{t: t, stores: []*redis.Store{open(t, url, all), open(t, url, all)}, sessions: 4}
	l.start()
	l.waitFor(200)
	l.end()
	l.check(open(t, url, all))
	slots := map[any]bool{}
	for _, key := range e.do("KEYS", "*").([]any) {
		slots[e.do("CLUSTER", "KEYSLOT", key)] = true
	}
	if len(slots) != 1 {
		t.Errorf("the keys are in %d slots", len(slots))
	}
	wait := *all
	wait.Replicas, wait.ReplicaTimeout, wait.Timeout = 1, 10*time.Millisecond, 200*time.Millisecond
	if _, err := commit(open(t, url, &wait), 0, &load{}, 0, 1); err == nil {
		t.Error("a replica has confirmed a change, and there is none")
	}
}

// Sentinels promote a replica, and the servers follow without a restart.
func TestSentinel(t *testing.T) {
	p := newPair(t)
	p.link.lead("") // the Sentinel needs the true address of the primary
	p.replica.do("REPLICAOF", "127.0.0.1", fmt.Sprint(p.primary.port))
	eventually(t, "the replica is in step", 20*time.Second, func() bool {
		return strings.Contains(fmt.Sprint(p.replica.do("INFO", "replication")), "master_link_status:up")
	})
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	config := fmt.Sprintf("sentinel monitor feed 127.0.0.1 %d 1\nsentinel down-after-milliseconds feed 500\nsentinel failover-timeout feed 5000\n", p.primary.port)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := start(t, file, "--sentinel")
	url := "redis://" + sentinel.addr() + "?master_name=feed&addr=" + sentinel.addr()
	l := &load{t: t, stores: []*redis.Store{open(t, url, all), open(t, url, all)}, sessions: 4, lossy: true}
	l.start()
	l.waitFor(200)
	eventually(t, "the Sentinel knows the replica", 30*time.Second, func() bool {
		all, err := sentinelOf(sentinel).Replicas(context.Background(), "feed").Result()
		return err == nil && len(all) == 1
	})
	p.primary.kill()
	eventually(t, "the Sentinel has promoted the replica", 3*time.Minute, func() bool {
		return strings.Contains(fmt.Sprint(p.replica.do("INFO", "replication")), "role:master")
	})
	l.waitFor(200)
	l.end()
	l.check(open(t, url, all))
}

func sentinelOf(e *engine) *client.SentinelClient {
	c := client.NewSentinelClient(&client.Options{Addr: e.addr()})
	e.t.Cleanup(func() { _ = c.Close() })
	return c
}
