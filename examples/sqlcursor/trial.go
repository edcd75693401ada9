package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/limpet-go/limpet/server"
)

// trial starts consumers one after the other, kills each while it works, and lets the last
// one finish.
type trial struct {
	kills    int
	seed     uint64
	dir      string                         // of the database
	consumer func(args ...string) *exec.Cmd // not started
	enough   func(score) bool               // ends the kills; nil: their number does
}

// score is what is in the ledger.
type score struct {
	kills     int // while messages waited
	idle      int // kills before which the ledger had not grown
	published int
	entered   int
	last      int // the highest number
	missing   int // numbers below it
	twice     int // numbers that were entered more than once
	late      int // entries behind a later message
	losses    int // that the stream has shown
}

func (t trial) run() (s score, err error) {
	backend, err := server.New(nil)
	if err != nil {
		return s, err
	}
	defer backend.Close()
	web := httptest.NewServer(backend)
	defer web.Close()
	file := filepath.Join(t.dir, "ledger.db")
	db, err := open(file)
	if err != nil {
		return s, err
	}
	defer db.Close()
	source := &source{backend: backend}
	random := rand.New(rand.NewPCG(t.seed, 1))
	start := func() (*worker, error) {
		return startWorker(t.consumer("-url", "ws"+strings.TrimPrefix(web.URL, "http"), "-db", file, "-patience", "20s"), source)
	}
	kills, idle, enough := 0, 0, false
	for tries := 1; kills < t.kills && !enough; tries++ {
		w, err := start()
		if err == nil {
			// From microseconds to 30 milliseconds: transactions take longer on a slow machine.
			err = w.kill(1+random.IntN(4), time.Microsecond<<random.IntN(15)+time.Duration(random.IntN(1000)))
		}
		before := s.entered
		if err == nil {
			err = db.QueryRow(`SELECT COALESCE(MAX(rowid), 0) FROM ledger`).Scan(&s.entered)
		}
		if err != nil {
			return s, fmt.Errorf("kill %d: %w", kills+1, err)
		}
		if source.waiting() {
			kills++ // otherwise the consumer had nothing to do any more, and the kill does not count
		} else if tries > 2*t.kills+10 {
			return s, errors.New("most consumers had nothing to do when they were killed")
		}
		if s.entered <= before {
			idle++
		}
		if t.enough != nil {
			if s, err = count(db); err != nil {
				return s, err
			}
			enough = t.enough(s)
		}
	}
	w, err := start()
	if err == nil {
		err = w.finish()
	}
	if err != nil {
		return s, fmt.Errorf("the last consumer: %w", err)
	}
	s, err = count(db)
	s.kills, s.idle, s.published = kills, idle, source.published
	return s, err
}

// source publishes numbered messages, so that the server always has some for a consumer.
type source struct {
	backend   *server.Server
	published int
	committed int // by consumers, as far as is known
}

// fill publishes until 2,000 messages follow the last one that was committed.
func (s *source) fill() error {
	for ; s.published < s.committed+2000; s.published++ {
		if _, err := s.backend.Publish(context.Background(), "payments/eu", fmt.Append(nil, s.published+1), nil); err != nil {
			return err
		}
	}
	return nil
}

// waiting reports whether messages are left behind the batch in which the last consumer was
// killed.
func (s *source) waiting() bool { return s.committed+128 < s.published }

// worker is a consumer that runs.
type worker struct {
	cmd    *exec.Cmd
	out    *bufio.Scanner
	source *source
}

func startWorker(cmd *exec.Cmd, s *source) (*worker, error) {
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = s.fill()
	}
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	return &worker{cmd, bufio.NewScanner(out), s}, cmd.Start()
}

// commit waits for a transaction of the worker.
func (w *worker) commit() error {
	if !w.out.Scan() {
		return fmt.Errorf("the consumer has ended: %v", w.cmd.Wait())
	}
	if _, err := fmt.Sscanf(w.out.Text(), "committed %d", &w.source.committed); err != nil {
		_ = w.cmd.Process.Kill()
		return fmt.Errorf("the consumer printed %q, then: %v", w.out.Text(), w.cmd.Wait())
	}
	return nil
}

// kill sends SIGKILL some time after a number of transactions.
func (w *worker) kill(transactions int, after time.Duration) error {
	for range transactions {
		if err := w.commit(); err != nil {
			return err
		}
	}
	<-time.After(after)
	if err := w.cmd.Process.Kill(); err != nil {
		return err
	}
	for w.out.Scan() { // what it has printed in the meantime
		fmt.Sscanf(w.out.Text(), "committed %d", &w.source.committed)
	}
	if err := w.cmd.Wait(); w.cmd.ProcessState.ExitCode() != -1 {
		return fmt.Errorf("the consumer ended before it was killed: %v", err)
	}
	return nil
}

// finish lets the worker take everything, and then ends it as a supervisor does.
func (w *worker) finish() error {
	for w.source.committed < w.source.published {
		if err := w.commit(); err != nil {
			return err
		}
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return w.cmd.Wait()
}

// count counts the entries of the ledger, whose payloads are numbers from 1 on.
func count(db *sql.DB) (s score, err error) {
	err = db.QueryRow(`
		WITH entries AS (SELECT rowid AS place, CAST(payload AS INTEGER) AS number FROM ledger),
			numbers AS (SELECT number, COUNT(*) AS times FROM entries GROUP BY number)
		SELECT (SELECT COUNT(*) FROM entries),
			(SELECT COALESCE(MAX(number), 0) FROM numbers),
			(SELECT COALESCE(MAX(number), 0) - COUNT(*) FROM numbers),
			(SELECT COUNT(*) FROM numbers WHERE times > 1),
			(SELECT COUNT(*) FROM (SELECT number, LAG(number) OVER (ORDER BY place) AS before FROM entries) WHERE number <= before),
			(SELECT COUNT(*) FROM losses)`).
		Scan(&s.entered, &s.last, &s.missing, &s.twice, &s.late, &s.losses)
	return s, err
}
