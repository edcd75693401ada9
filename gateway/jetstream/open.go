package jetstream

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Metadata of a stream.
const (
	metaEpoch      = "limpet-epoch"      // random
	metaGeneration = "limpet-generation" // counts the epochs
)

// Open connects to the servers of NATS, whose URLs are separated by commas, and opens the log; o may be nil. It creates the
// stream if there is none. It waits for the servers, for a leader and for the newest messages, until ctx ends or Options.Timeout is
// over: then the error is ErrUnreachable, or ErrDenied.
//
// The other errors are about the options, or wrap ErrVersion, ErrJetStream, ErrConfig or ErrFull. None has a part of a URL.
func Open(ctx context.Context, urls string, o *Options) (*Store, error) {
	opt, err := o.checked()
	if err != nil {
		return nil, err
	}
	if err := checkURLs(urls); err != nil {
		return nil, err
	}
	s := newStore(opt)
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if err := s.connect(ctx, urls); err != nil {
		s.cancel(ErrClosed)
		return nil, err
	}
	if err = s.checkServer(ctx); err == nil {
		err = s.prepare(ctx)
	}
	if err == nil {
		s.work.Go(s.tail)
		s.work.Go(s.watch)
		err = s.Sync(ctx)
	}
	if err != nil {
		err = s.noAnswer(ctx, err)
		_ = s.Close() // of nothing that is used
		return nil, err
	}
	return s, nil
}

// checkURLs keeps what package net/url says of a URL, which is a part of it, out of errors.
func checkURLs(urls string) error {
	for i, one := range strings.Split(urls, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err != nil || u.Host == "" && u.Path == "" && u.Opaque == "" {
			return fmt.Errorf("gateway/jetstream: URL %d of Open is not valid; use nats://host:4222", i+1)
		}
	}
	return nil
}

// connect tries until a server accepts the connection.
func (s *Store) connect(ctx context.Context, urls string) error {
	all := append([]nats.Option{
		nats.Name("limpet"), nats.Timeout(tryTime), nats.PingInterval(tryTime), nats.MaxPingsOutstanding(2),
	}, s.opt.NATS...)
	all = append(all, nats.MaxReconnects(-1), nats.ReconnectWait(maxPause), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(false),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				s.denied.Store(&denial{text: err.Error(), at: time.Now()})
			}
		}))
	for try := 0; ; try++ {
		conn, err := nats.Connect(urls, all...)
		switch {
		case err == nil:
			s.conn = conn
			return nil
		case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAccountAuthExpired):
			return fmt.Errorf("%w (the credentials of the connection are refused)", ErrDenied)
		case refusesTLS(err):
			return fmt.Errorf("%w (%w)", ErrTLS, err)
		}
		if pause(ctx, 5+try) != nil {
			return s.noAnswer(ctx, nats.ErrTimeout)
		}
	}
}

// refusesTLS reports whether err is that of a TLS handshake, which another try does not change.
func refusesTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var alert *net.OpError // of the server: package crypto/tls has no exported type for it
	var record tls.RecordHeaderError
	return errors.As(err, &verify) || errors.As(err, &alert) && alert.Op == "remote error" || errors.As(err, &record) ||
		errors.Is(err, nats.ErrSecureConnWanted) || errors.Is(err, nats.ErrSecureConnRequired)
}

// checkServer returns why the servers cannot hold a log.
func (s *Store) checkServer(ctx context.Context) error {
	version := s.conn.ConnectedServerVersion()
	parts := strings.SplitN(version, ".", 3)
	major, err := strconv.Atoi(parts[0])
	minor := 0
	if err == nil && len(parts) > 1 {
		minor, err = strconv.Atoi(parts[1])
	}
	if err != nil || major < 2 || major == 2 && minor < 12 {
		return fmt.Errorf("%w (it is %s)", ErrVersion, version)
	}
	var account struct{}
	err = s.call(ctx, "INFO", nil, &account)
	var a *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return ErrJetStream
	case errors.As(err, &a) && a.ErrorCode != codeUnavailable:
		return typed(a)
	case err != nil && a == nil && !silent(err):
		return err
	}
	return nil // a cluster without a leader answers later
}

// config returns the configuration of a new stream.
func (s *Store) config() jetstream.StreamConfig {
	o := &s.opt
	c := jetstream.StreamConfig{
		Name: o.Log, Subjects: []string{o.Log + ".m.>", o.Log + ".s.*", o.Log + ".r.*", check(o.Log)},
		MaxMsgs: -1, MaxBytes: -1, MaxAge: o.Retention.Age, MaxMsgsPerSubject: -1, MaxConsumers: -1, Replicas: o.Replicas,
		Duplicates: o.Dedup + keepMargin + clockMargin, AllowDirect: true, AllowAtomicPublish: true,
		Metadata: newEpoch(0),
	}
	if o.Retention.Count > 0 {
		c.MaxMsgs = int64(o.Retention.Count)
	}
	if o.Retention.Bytes > 0 {
		c.MaxBytes = int64(o.Retention.Bytes)
	}
	if o.Memory {
		c.Storage = jetstream.MemoryStorage
	}
	return c
}

func newEpoch(generation uint64) map[string]string {
	var seed [12]byte
	_, _ = rand.Read(seed[:]) // never fails
	return map[string]string{metaEpoch: hex.EncodeToString(seed[:]), metaGeneration: strconv.FormatUint(generation, 10)}
}

// prepare finds the stream or creates it. Other stores may do the same at the same time.
func (s *Store) prepare(ctx context.Context) error {
	for try := 0; ; try++ {
		i, err := s.info(ctx)
		if err == nil {
			if err = s.fits(&i.Config); err == nil {
				s.adopt(i)
			}
			return err
		}
		if !errors.Is(err, ErrGone) {
			return err
		}
		var created jetstream.StreamInfo
		err = s.call(ctx, "STREAM.CREATE."+s.opt.Log, s.config(), &created)
		var a *jetstream.APIError
		switch {
		case errors.As(err, &a) && a.ErrorCode != codeStreamExists && a.ErrorCode != codeUnavailable && a.ErrorCode != codeNoPeers:
			return typed(a)
		case err != nil && a == nil && !silent(err):
			return err
		}
		if pause(ctx, 5) != nil {
			if a != nil {
				return typed(a)
			}
			return s.noAnswer(ctx, err)
		}
	}
}

// fits returns why a stream that exists cannot hold the log.
func (s *Store) fits(c *jetstream.StreamConfig) error {
	bad := func(what string, is, want any) error {
		return fmt.Errorf("%w: %s of stream %s is %v, not %v", ErrConfig, what, s.opt.Log, is, want)
	}
	want := s.config()
	for _, subject := range want.Subjects {
		if !slices.Contains(c.Subjects, subject) {
			return bad("subjects", c.Subjects, want.Subjects)
		}
	}
	switch {
	case c.Storage != want.Storage:
		return bad("storage", c.Storage, want.Storage)
	case c.Storage == jetstream.FileStorage && c.Replicas < 3:
		return bad("num_replicas", c.Replicas, "3 or 5 (one replica in files takes 20 ms and more for each Commit, and is lost with its server)")
	case c.Replicas != want.Replicas:
		return bad("num_replicas", c.Replicas, want.Replicas)
	case !c.AllowAtomicPublish:
		return bad("allow_atomic", false, true)
	case !c.AllowDirect:
		return bad("allow_direct", false, true)
	case c.Discard != jetstream.DiscardOld || c.Retention != jetstream.LimitsPolicy || c.MaxMsgsPerSubject > 0 || c.NoAck || c.Sealed:
		return bad("discard, retention, max_msgs_per_subject, no_ack or sealed", "set", "as Open creates it")
	case c.MaxAge != 0 && c.MaxAge < want.MaxAge:
		return bad("max_age", c.MaxAge, fmt.Sprintf("%v or more (Options.Retention.Age)", want.MaxAge))
	case c.Duplicates < want.Duplicates:
		return bad("duplicate_window", c.Duplicates, fmt.Sprintf("%v or more (Options.Dedup and two minutes)", want.Duplicates))
	case c.Metadata[metaEpoch] == "":
		return bad("metadata", "without "+metaEpoch, "that of a stream which Open has created")
	}
	return nil
}

// renew gives the log another epoch, unless another store has done that since old.
func (s *Store) renew(ctx context.Context, old string) error {
	for try := 0; try < 5; try++ {
		if err := pause(ctx, 5); err != nil { // other stores see the same at the same time
			return err
		}
		i, err := s.info(ctx)
		if err != nil {
			return err
		}
		if epochOf(i) != old {
			s.adopt(i)
			return nil
		}
		generation, _ := strconv.ParseUint(i.Config.Metadata[metaGeneration], 10, 64)
		for k, v := range newEpoch(generation + 1) {
			i.Config.Metadata[k] = v
		}
		var done json.RawMessage
		err = s.call(ctx, "STREAM.UPDATE."+s.opt.Log, i.Config, &done)
		var a *jetstream.APIError
		if errors.As(err, &a) && a.ErrorCode != codeUnavailable {
			return typed(a)
		}
	}
	return ErrUnreachable
}

func epochOf(i *jetstream.StreamInfo) string {
	return i.Config.Metadata[metaEpoch] + "." + strconv.FormatInt(i.Created.UnixNano(), 36)
}

// Close ends the goroutines of the store and its connection. All calls return ErrClosed from then on. Close may be called more than
// once. Call it after Server.Close.
func (s *Store) Close() error {
	s.mu.Lock() // for Sync
	s.cancel(ErrClosed)
	s.mu.Unlock()
	s.work.Wait()
	s.conn.Close()
	return nil
}

// ended returns why the store does not work any more.
func (s *Store) ended() error { return context.Cause(s.ctx) }

// waitTime bounds how long nothing is heard from a consumer that sends heartbeats.
const (
	heartbeat = 500 * time.Millisecond
	waitTime  = 5 * heartbeat
	staleTime = 5 * time.Second
)
