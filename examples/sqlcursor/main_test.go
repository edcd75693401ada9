package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// try runs a trial of consumers with flags, until enough or after 300 kills.
func try(t *testing.T, enough func(score) bool, flags ...string) score {
	t.Helper()
	kills := 300
	if testing.Short() {
		kills = 30
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s, err := trial{
		kills: kills, seed: seed, dir: t.TempDir(), enough: enough,
		consumer: func(args ...string) *exec.Cmd { return program.Command(t, append(flags, args...)...) },
	}.run()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
	if s.idle > 0 || s.losses > 0 || s.last != s.published {
		t.Errorf("%d of %d kills hit a consumer that had entered nothing; %d losses; the last of %d messages is %d",
			s.idle, s.kills, s.losses, s.published, s.last)
	}
	return s
}

// Consumers that are killed at random, 300 times, enter each message exactly once and in
// order.
func TestExactlyOnce(t *testing.T) {
	s := try(t, nil)
	if s.kills < 30 || s.entered != s.published || s.missing > 0 || s.twice > 0 || s.late > 0 {
		t.Errorf("not exactly once: %+v", s)
	}
}

// With two transactions the same consumers do not: that is what TestExactlyOnce would find.
func TestTwoTransactions(t *testing.T) {
	s := try(t, func(s score) bool { return s.twice > 0 }, "-effect-first")
	if s.twice == 0 || s.missing > 0 {
		t.Errorf("effect first: %+v", s)
	}
	s = try(t, func(s score) bool { return s.missing > 0 }, "-position-first")
	if s.missing == 0 || s.twice > 0 {
		t.Errorf("position first: %+v", s)
	}
}

func TestDemo(t *testing.T) {
	out, _ := program.Output(t, "-kills", "1", "-demo")
	if !strings.Contains(out, "one transaction: 1 kills, ") || !strings.Contains(out, " 0 missing, 0 entered twice\n") {
		t.Errorf("it printed\n%s", out)
	}
}

// message is the one at an offset.
func message(offset uint64) limpet.Message {
	return limpet.Message{Kind: limpet.Data, Topic: "payments/eu", Payload: []byte("1"), Position: limpet.Position{Epoch: "e", Offset: offset, Tag: "\x00\xff"}}
}

// opened is a Store that has loaded, on a database with more of them.
func opened(t *testing.T, file string, want limpet.Position) *positions {
	t.Helper()
	db, err := open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	p := newPositions(db, "wss://feed.example:8443/x", "payments/*", "ledger")
	c, err := p.Load(t.Context(), "ledger")
	if err != nil || c.Position != want {
		t.Fatalf("%+v, %v; want %v", c, err, want)
	}
	if err := c.Check(cursor.Feed{Dialect: "limpet", Host: "feed.example:8443", Topic: "payments/*"}); !c.IsZero() && err != nil {
		t.Error(err)
	}
	return p
}

// The beginning is saved, and after that only transactions move the position: a Save that
// comes late does not move it back.
func TestSaveKeepsTheBeginning(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a ?#%ä.db")
	p := opened(t, file, limpet.Position{})
	at := func(offset uint64) cursor.Cursor {
		return cursor.Cursor{Feed: p.feed, Position: message(offset).Position}
	}
	save := func(offset uint64) {
		t.Helper()
		if err := p.Save(t.Context(), "ledger", at(offset)); err != nil {
			t.Fatal(err)
		}
	}
	save(3)
	opened(t, file, at(3).Position)
	p = opened(t, file, at(3).Position)
	if err := commit(t.Context(), p.db, p, []limpet.Message{message(4), message(5)}); err != nil {
		t.Fatal(err)
	}
	save(4)
	opened(t, file, at(5).Position)
}

// A process that another one has replaced enters nothing more.
func TestTakenOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.db")
	first := opened(t, file, limpet.Position{})
	batch := []limpet.Message{message(1)}
	if err := commit(t.Context(), first.db, first, batch); err != nil {
		t.Fatal(err)
	}
	second := opened(t, file, batch[0].Position)
	batch[0] = message(2)
	if err := commit(t.Context(), first.db, first, batch); !errors.Is(err, errTakenOver) {
		t.Errorf("the first: %v", err)
	}
	if err := commit(t.Context(), second.db, second, batch); err != nil {
		t.Errorf("the second: %v", err)
	}
	if s, err := count(first.db); err != nil || s.entered != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A loss is in the database, too, and whatever fails leaves nothing behind.
func TestCommit(t *testing.T) {
	p := opened(t, filepath.Join(t.TempDir(), "ledger.db"), limpet.Position{})
	gap := limpet.Message{Kind: limpet.Gap, Position: message(9).Position, Loss: &limpet.Loss{Count: 7, Cause: limpet.CauseExpired}}
	if err := commit(t.Context(), p.db, p, []limpet.Message{message(2), gap}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := commit(ctx, p.db, p, []limpet.Message{message(10)}); err == nil {
		t.Error("no error")
	}
	if s, err := count(p.db); err != nil || s.entered != 1 || s.losses != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := p.db.Exec(`UPDATE cursors SET position = 'x'`); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Load(t.Context(), "ledger"); !errors.Is(err, cursor.ErrCorrupt) {
		t.Errorf("a damaged position: %v", err)
	}
}
