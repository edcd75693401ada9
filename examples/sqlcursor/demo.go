package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"

	"github.com/limpet-go/limpet"
)

// init adds the flags of the demonstration, so that main.go and store.go are a whole program
// without them.
func init() {
	kills := flag.Int("kills", 100, "how often -demo kills a consumer; before -demo")
	seed := flag.Uint64("seed", rand.Uint64(), "when -demo kills; before -demo")
	flag.BoolFunc("demo", "kill consumers at random, with the recipe and without it, and count what is in the table",
		func(string) error { demonstrate(*kills, *seed); return nil })
	flag.BoolFunc("effect-first", "commit the position after each message, in a transaction of its own, which is wrong",
		func(string) error { process = separately(effect, position); return nil })
	flag.BoolFunc("position-first", "commit the position before each message, which is wrong",
		func(string) error { process = separately(position, effect); return nil })
}

// demonstrate runs a trial with the recipe and two without it, prints what they counted, and
// ends the program.
func demonstrate(kills int, seed uint64) {
	self, err := os.Executable()
	check(err)
	fmt.Println("seed", seed)
	for _, row := range []struct {
		what string
		args []string
	}{
		{"one transaction:", nil}, {"effect first:   ", []string{"-effect-first"}}, {"position first: ", []string{"-position-first"}},
	} {
		dir, err := os.MkdirTemp("", "sqlcursor")
		check(err)
		s, err := trial{kills: kills, seed: seed, dir: dir, consumer: func(args ...string) *exec.Cmd {
			return exec.Command(self, append(row.args, args...)...)
		}}.run()
		check(errors.Join(err, os.RemoveAll(dir)))
		fmt.Printf("%s %d kills, %d messages: %d missing, %d entered twice\n", row.what, s.kills, s.published, s.missing, s.twice)
	}
	os.Exit(0)
}

type step func(ctx context.Context, tx *sql.Tx, at *positions, batch []limpet.Message) error

func effect(ctx context.Context, tx *sql.Tx, _ *positions, batch []limpet.Message) error {
	return enter(ctx, tx, batch)
}

func position(ctx context.Context, tx *sql.Tx, at *positions, batch []limpet.Message) error {
	return at.advance(ctx, tx, batch)
}

// separately is commit without the recipe: two transactions for each message, and a crash may
// come between them.
func separately(steps ...step) func(context.Context, *sql.DB, *positions, []limpet.Message) error {
	return func(ctx context.Context, db *sql.DB, at *positions, batch []limpet.Message) error {
		for i := range batch {
			for _, s := range steps {
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				if err := errors.Join(s(ctx, tx, at, batch[i:i+1]), tx.Commit()); err != nil {
					return err
				}
			}
		}
		return nil
	}
}
