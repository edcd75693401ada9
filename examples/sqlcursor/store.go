package main

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"sync/atomic"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
	_ "modernc.org/sqlite"
)

// schema has the effects and the positions in one database, so that one transaction covers
// both. The ledger has no unique key: nothing but the position keeps messages from being
// entered twice.
const schema = `
CREATE TABLE IF NOT EXISTS ledger (topic TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS losses (kind TEXT NOT NULL, cause TEXT NOT NULL, missing INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cursors (
	name     TEXT PRIMARY KEY,
	owner    INTEGER NOT NULL,
	dialect  TEXT NOT NULL DEFAULT '',
	host     TEXT NOT NULL DEFAULT '',
	topic    TEXT NOT NULL DEFAULT '',
	position TEXT NOT NULL DEFAULT ''
)`

// open opens the database. After a loss of power the last transactions may be gone, with
// effect and position alike: the server sends those messages again.
func open(file string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+
		"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// commit is the recipe. What the messages do and the position after them become durable
// together: a crash leaves both or neither.
func commit(ctx context.Context, db *sql.DB, at *positions, batch []limpet.Message) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // without effect after Commit
	if err := enter(ctx, tx, batch); err != nil {
		return err
	}
	if err := at.advance(ctx, tx, batch); err != nil {
		return err
	}
	return tx.Commit()
}

// enter is the effect of the messages. It must change nothing outside the transaction.
func enter(ctx context.Context, tx *sql.Tx, batch []limpet.Message) error {
	for _, m := range batch {
		var err error
		if m.Loss != nil {
			_, err = tx.ExecContext(ctx, `INSERT INTO losses VALUES (?, ?, ?)`, m.Kind.String(), m.Loss.Cause.String(), int64(m.Loss.Count))
		} else {
			_, err = tx.ExecContext(ctx, `INSERT INTO ledger VALUES (?, ?)`, m.Topic, string(m.Payload))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// positions is the cursor.Store of the recipe: the client loads a position from it, and the
// transaction moves it. Create one with newPositions, for one subscription.
type positions struct {
	db    *sql.DB
	name  string
	feed  cursor.Feed
	owner atomic.Int64 // as Load found it
}

func newPositions(db *sql.DB, server, topic, name string) *positions {
	p := &positions{db: db, name: name, feed: cursor.Feed{Dialect: "limpet", Topic: topic}}
	if u, err := url.Parse(server); err == nil { // limpet.New reports the error
		p.feed.Host = u.Host
	}
	return p
}

// Load returns the position and takes the name over: a transaction of an earlier owner that
// is still alive fails from now on.
func (p *positions) Load(ctx context.Context, name string) (c cursor.Cursor, err error) {
	var owner int64
	var position string
	err = p.db.QueryRowContext(ctx, `INSERT INTO cursors (name, owner) VALUES (?, 1)
		ON CONFLICT (name) DO UPDATE SET owner = owner + 1
		RETURNING owner, dialect, host, topic, position`, name).
		Scan(&owner, &c.Feed.Dialect, &c.Feed.Host, &c.Feed.Topic, &position)
	if err != nil || position == "" {
		c = cursor.Cursor{} // nothing was saved
	} else if c.Position.UnmarshalText([]byte(position)) != nil {
		return cursor.Cursor{}, cursor.ErrCorrupt
	}
	p.owner.Store(owner)
	return c, err
}

// Save keeps where the stream began. After that only transactions move the position: Save
// runs beside them, and what it brings may be older.
func (p *positions) Save(ctx context.Context, name string, c cursor.Cursor) error {
	_, err := p.db.ExecContext(ctx, `UPDATE cursors SET dialect = ?, host = ?, topic = ?, position = ?
		WHERE name = ? AND owner = ? AND position = ''`,
		c.Feed.Dialect, c.Feed.Host, c.Feed.Topic, c.Position.String(), name, p.owner.Load())
	return err
}

var errTakenOver = errors.New("another process has taken over the cursor; end this one")

// advance moves the position behind batch. It fails if another process has called Load since.
func (p *positions) advance(ctx context.Context, tx *sql.Tx, batch []limpet.Message) error {
	moved, err := tx.ExecContext(ctx, `UPDATE cursors SET dialect = ?, host = ?, topic = ?, position = ?
		WHERE name = ? AND owner = ?`,
		p.feed.Dialect, p.feed.Host, p.feed.Topic, batch[len(batch)-1].Position.String(), p.name, p.owner.Load())
	if err != nil {
		return err
	}
	if n, err := moved.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, errTakenOver)
	}
	return nil
}
