package test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/server"
)

const crashEnv = "LIMPET_TEST_CURSOR" // URL and directory

// A process that is killed at any moment, between processing and save too, goes on with
// the first message that is not in its cursor file: it skips none, and what it had saved
// does not come again.
func TestCursorSurvivesKill(t *testing.T) {
	if env := os.Getenv(crashEnv); env != "" {
		consumeUntilKilled(env)
	}
	backend, err := server.New(nil)
	assert.NoError(t, err)
	defer backend.Close()
	web := httptest.NewServer(backend)
	defer web.Close()
	env := crashEnv + "=ws" + strings.TrimPrefix(web.URL, "http") + " " + t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))

	const rounds, each = 60, 10
	published, processed, saved, resumed := 0, 0, 0, 0
	for range rounds {
		for range each {
			published++
			_, err := backend.Publish(t.Context(), "q", []byte(fmt.Sprint(published)), nil)
			assert.NoError(t, err)
		}
		through := processed + 1 + random.IntN(published-processed) // killed once it has processed this one
		untilSaved := random.IntN(2) == 0                           // and saved something after it
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCursorSurvivesKill$", fmt.Sprintf("-plain=%v", *plainFlag))
		cmd.Env = append(os.Environ(), env)
		out, err := cmd.StdoutPipe()
		assert.NoError(t, err)
		in, err := cmd.StdinPipe()
		assert.NoError(t, err)
		assert.NoError(t, cmd.Start())
		turn := func() { _, _ = in.Write([]byte("\n")) } // to process one message
		turn()
		first, before := 0, 0
		var word string
		var n int
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, err := fmt.Sscanf(lines.Text(), "%s %d", &word, &n); err != nil {
				t.Fatalf("the consumer says %s", lines.Text())
			}
			switch {
			case word == "saved":
				if n > before {
					t.Fatalf("saved %d, processed %d", n, before)
				}
				saved = max(saved, n)
			case first == 0:
				first = n
				if n > processed+1 || n <= saved {
					t.Fatalf("processed %d, saved %d, and goes on with %d", processed, saved, n)
				}
			case n != before+1:
				t.Fatalf("%d after %d", n, before)
			}
			if word == "processed" {
				if before = n; n < through {
					turn()
				}
			}
			if before >= through && (!untilSaved || word == "saved") {
				_ = cmd.Process.Kill() // what it has written before can still be read
			}
		}
		if err := cmd.Wait(); err == nil || first == 0 {
			t.Fatalf("the consumer was not killed: %v", err)
		}
		if first > 1 {
			resumed++
		}
		processed = max(processed, before)
	}
	if resumed == 0 || processed < published/2 {
		t.Errorf("resumed %d times, processed %d of %d", resumed, processed, published)
	}
	t.Logf("%d kills: processed %d, saved %d, resumed %d times", rounds, processed, saved, resumed)
}

// printed is a store that writes what it has saved to standard output.
type printed struct{ cursor.Store }

func (s printed) Save(ctx context.Context, name string, c cursor.Cursor) error {
	err := s.Store.Save(ctx, name, c)
	if err != nil {
		fmt.Println("failed", err)
	} else {
		fmt.Println("saved", c.Position.Offset)
	}
	return err
}

// consumeUntilKilled is the process that TestCursorSurvivesKill kills.
func consumeUntilKilled(env string) {
	url, dir, _ := strings.Cut(env, " ")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := limpet.Dial(ctx, url, options(nil))
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	s, err := c.Subscribe(ctx, "q", &limpet.SubscribeOptions{From: limpet.FromFirst, Cursor: printed{cursor.File(dir)}, Name: "name"})
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	turns := bufio.NewScanner(os.Stdin)
	for m, err := range s.Messages(ctx) {
		turns.Scan()
		fmt.Println("processed", string(m.Payload), err)
	}
	os.Exit(1)
}
