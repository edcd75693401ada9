package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of JetStream, which say what happened to a message or a request.
const (
	codeWrongLast     = 10071 // another sequence is the last one of the subject
	codeWrongLastNow  = 10164 // a message of the subject is in process: no answer about the sequence
	codeNotReady      = 10163 // as codeWrongLastNow
	codeIDInProcess   = 10158
	codeKnownID       = 10201
	codeManyBatches   = 10210
	codeIncomplete    = 10176
	codeNoResources   = 10023
	codeNoMemory      = 10028
	codeNoStorage     = 10047
	codeAccountFull   = 10002
	codeStoreFailed   = 10077
	codeMessageSize   = 10054
	codeBatchSize     = 10199
	codeNoBatches     = 10174
	codeNoStream      = 10059
	codeNoMessage     = 10037
	codeStreamExists  = 10058
	codeUnavailable   = 10008
	codeNoPeers       = 10005
	codeNoCluster     = 10074
	codeNotEnabled    = 10076
	codeNotForAccount = 10039
)

const (
	tryTime  = 2 * time.Second // for one answer
	maxPause = 100 * time.Millisecond
)

// errNotFound means that there is no such message.
var errNotFound = errors.New("gateway/jetstream: no such message")

// typed returns err as an error of this package.
func typed(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case codeNoResources, codeNoMemory, codeNoStorage, codeAccountFull:
		return fmt.Errorf("%w (%s)", ErrFull, e.Description)
	case codeStoreFailed:
		if strings.Contains(e.Description, "maximum") {
			return fmt.Errorf("%w (%s)", ErrFull, e.Description)
		}
	case codeMessageSize, codeBatchSize:
		return fmt.Errorf("%w (%s)", ErrTooBig, e.Description)
	case codeNoBatches:
		return fmt.Errorf("%w (%s)", ErrConfig, e.Description)
	case codeNoStream:
		return ErrGone
	case codeNoMessage:
		return errNotFound
	case codeNotEnabled, codeNotForAccount:
		return fmt.Errorf("%w (%s)", ErrJetStream, e.Description)
	case codeNoCluster, codeNoPeers:
		return fmt.Errorf("%w: Options.Replicas needs a cluster of as many servers (%s)", ErrConfig, e.Description)
	}
	return fmt.Errorf("gateway/jetstream: error %d of the servers: %w", e.ErrorCode, e)
}

// silent reports whether err says nothing about what became of a request.
func silent(err error) bool {
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionReconnecting) ||
		errors.Is(err, nats.ErrStaleConnection)
}

// request sends m and waits for one answer, for tryTime at most.
func (s *Store) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	try, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	r, err := s.conn.RequestMsgWithContext(try, m)
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, ErrTooBig
	case errors.Is(err, nats.ErrConnectionClosed):
		return nil, s.ended()
	}
	return nil, err
}

// answer is what all answers of the API have.
type answer struct {
	Error *jetstream.APIError `json:"error"`
}

// call makes one request of the API.
func (s *Store) call(ctx context.Context, subject string, request, response any) error {
	m := nats.NewMsg("$JS.API." + subject)
	if request != nil {
		var err error
		if m.Data, err = json.Marshal(request); err != nil {
			return err
		}
	}
	r, err := s.request(ctx, m)
	if err != nil {
		return err
	}
	var a answer
	if err := json.Unmarshal(r.Data, &a); err != nil {
		return fmt.Errorf("gateway/jetstream: an answer of the servers: %w", err)
	}
	if a.Error != nil {
		return a.Error
	}
	return json.Unmarshal(r.Data, response)
}

// ask is call, repeated until there is an answer or the time of ctx is over. Only requests that may be repeated use it.
func (s *Store) ask(ctx context.Context, subject string, request, response any) error {
	for try := 0; ; try++ {
		err := s.call(ctx, subject, request, response)
		var a *jetstream.APIError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &a) && a.ErrorCode != codeUnavailable:
			return typed(a)
		case a == nil && !silent(err) || ctx.Err() != nil:
			return s.noAnswer(ctx, err)
		}
		if err := pause(ctx, try); err != nil {
			return s.noAnswer(ctx, err)
		}
	}
}

// noAnswer returns the error of a call that ended without an answer.
func (s *Store) noAnswer(ctx context.Context, err error) error {
	switch {
	case s.ctx.Err() != nil:
		return s.ended()
	case errors.Is(context.Cause(ctx), errTimeUp) || ctx.Err() == nil && silent(err):
		if denied := s.denied.Load(); denied != nil && time.Since(denied.at) < 2*tryTime {
			return fmt.Errorf("%w (%s)", ErrDenied, denied.text)
		}
		return ErrUnreachable
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// pause waits before the next try.
func pause(ctx context.Context, try int) error {
	d := min(2*time.Millisecond<<min(try, 10), maxPause)
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errTimeUp = errors.New("time is up")

// bounded returns ctx with the bound of a call, which Close ends, too.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opt.Timeout, errTimeUp)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// wanted says which message of a stream is wanted.
type wanted struct {
	Seq      uint64 `json:"seq,omitempty"`
	Last     string `json:"last_by_subj,omitempty"`
	Next     string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

// get returns a message as the leader of the stream has it; errNotFound if there is none.
func (s *Store) get(ctx context.Context, w wanted) (*stored, error) {
	var r struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := s.ask(ctx, "STREAM.MSG.GET."+s.opt.Log, w, &r); err != nil {
		return nil, err
	}
	m := &stored{subject: r.Message.Subject, seq: r.Message.Seq, at: r.Message.Time, data: r.Message.Data}
	if len(r.Message.Header) > 0 {
		m.header, _ = nats.DecodeHeadersMsg(r.Message.Header) // damaged ones count as none, as in what a consumer delivers
	}
	return m, nil
}

// info returns what the leader says of the stream.
func (s *Store) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	var r jetstream.StreamInfo
	if err := s.ask(ctx, "STREAM.INFO."+s.opt.Log, nil, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// direct reads at most count messages of the log from sequence from on, from whichever server answers first, which may be
// behind the leader.
func (s *Store) direct(ctx context.Context, from uint64, count, size int) ([]*stored, error) {
	try, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	inbox, arriving := s.conn.NewInbox(), make(chan *nats.Msg, count+1)
	sub, err := s.conn.ChanSubscribe(inbox, arriving)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only without a connection
	q, err := json.Marshal(wanted{Seq: from, Next: messages(s.opt.Log) + ">", Batch: count, MaxBytes: size})
	if err == nil {
		err = s.conn.PublishRequest("$JS.API.DIRECT.GET."+s.opt.Log, inbox, q)
	}
	if err != nil {
		return nil, err
	}
	var all []*stored
	for {
		var m *nats.Msg
		select {
		case m = <-arriving:
		case <-try.Done():
			return nil, try.Err()
		}
		one, status, err := answered(m, s.opt.Log)
		switch {
		case one != nil:
			all = append(all, one)
		case err != nil && len(all) > 0:
			return all, nil
		case err != nil: // the header of the next message is damaged
			one, err := s.get(ctx, wanted{Seq: from, Next: messages(s.opt.Log) + ">"})
			return []*stored{one}, err
		case status == "204", status == "404":
			return all, nil
		case status == "503":
			return nil, nats.ErrNoResponders
		default:
			return nil, fmt.Errorf("gateway/jetstream: status %s of a read", status)
		}
	}
}

// answered returns the message of an answer to a direct read, or the status if it is none. The servers add their headers at the end, and
// a plain publisher may have set the same ones and a status: so the last value counts, and a message is what has a sequence.
func answered(m *nats.Msg, log string) (one *stored, status string, err error) {
	last := func(key string) string {
		if all := m.Header[key]; len(all) > 0 {
			return all[len(all)-1]
		}
		return ""
	}
	if last("Nats-Sequence") == "" && len(m.Data) == 0 {
		if status = last("Status"); status != "" {
			return nil, status, nil
		}
	}
	one = &stored{subject: last("Nats-Subject"), header: m.Header, data: m.Data}
	if one.seq, err = strconv.ParseUint(last("Nats-Sequence"), 10, 64); err == nil {
		one.at, err = time.Parse(time.RFC3339Nano, last("Nats-Time-Stamp"))
	}
	if err != nil || last("Nats-Stream") != log {
		return nil, "", errDamaged
	}
	return one, "", nil
}
