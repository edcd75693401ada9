package node

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet/gateway/internal/config"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

const (
	maxMessages = 1000     // in one request of /publish
	maxBody     = 32 << 20 // bytes of such a request
	minToken    = 16       // bytes
)

// publishToken reads that of the settings; nil if there is none.
func publishToken(cfg *config.Config) ([]byte, error) {
	if cfg.PublishToken == "" {
		return nil, nil
	}
	data, err := config.Bytes("publish-token-file", cfg.PublishToken, 4096)
	if err != nil {
		return nil, err
	}
	if data = bytes.TrimSpace(data); len(data) < minToken {
		return nil, &config.Error{Key: "publish-token-file", Reason: fmt.Sprintf("the token has %d bytes; use at least %d random ones", len(data), minToken)}
	}
	return data, nil
}

// message is one of the body of POST /publish.
type message struct {
	Topic   string            `json:"topic"`
	Payload *string           `json:"payload"`        // text
	Base64  *string           `json:"payload_base64"` // or bytes
	Type    string            `json:"type"`
	ID      string            `json:"id"`
	Header  map[string]string `json:"header"`
	TTL     string            `json:"ttl"` // such as 10s
}

// receipt says where a message is in the log.
type receipt struct {
	Offset uint64 `json:"offset"`
}

// failure is the body of an answer that is not 200.
type failure struct {
	Error     string    `json:"error"`
	Index     *int      `json:"index,omitempty"` // of the message, in a batch
	Published []receipt `json:"published,omitempty"`
}

// publishOne answers POST /publish/TOPIC: the body is the payload. The header Idempotency-Key identifies the
// message.
func (n *Node) publishOne(w http.ResponseWriter, r *http.Request) {
	if !n.mayPublish(w, r) {
		return
	}
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(n.cfg.MaxPayload)))
	if err != nil {
		answerUnread(w, err)
		return
	}
	ttl := time.Duration(0)
	if text := r.URL.Query().Get("ttl"); text != "" {
		if ttl, err = time.ParseDuration(text); err != nil {
			reply(w, http.StatusBadRequest, failure{Error: "ttl must be a duration such as 10s"})
			return
		}
	}
	offset, err := n.server.Publish(r.Context(), r.PathValue("topic"), payload, &server.PublishOptions{
		ID: idOf(r.Header.Get("Idempotency-Key")), Type: r.Header.Get("Content-Type"), TTL: ttl,
	})
	if err != nil {
		status, text := explain(err)
		reply(w, status, failure{Error: text})
		return
	}
	reply(w, http.StatusOK, receipt{offset})
}

// publishBatch answers POST /publish: the messages of a JSON body, in order. The first that is refused ends the
// request; those before it are published.
func (n *Node) publishBatch(w http.ResponseWriter, r *http.Request) {
	if !n.mayPublish(w, r) {
		return
	}
	var body struct {
		Messages []message `json:"messages"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&body)
	if err == nil && decoder.More() {
		err = errors.New("more than one JSON value")
	}
	switch {
	case err != nil:
		answerUnread(w, err)
		return
	case len(body.Messages) == 0 || len(body.Messages) > maxMessages:
		reply(w, http.StatusBadRequest, failure{Error: fmt.Sprintf(`the body has %d messages; use {"messages": [...]} with 1 to %d`, len(body.Messages), maxMessages)})
		return
	}
	published := []receipt{}
	key := r.Header.Get("Idempotency-Key")
	for i, m := range body.Messages {
		if m.ID == "" && key != "" {
			m.ID = key + "/" + strconv.Itoa(i)
		}
		payload, o, err := m.decode()
		if err != nil {
			reply(w, http.StatusBadRequest, failure{err.Error(), &i, published})
			return
		}
		offset, err := n.server.Publish(r.Context(), m.Topic, payload, o)
		if err != nil {
			status, text := explain(err)
			reply(w, status, failure{text, &i, published})
			return
		}
		published = append(published, receipt{offset})
	}
	reply(w, http.StatusOK, map[string]any{"published": published})
}

// decode returns the payload and the options of m.
func (m *message) decode() (payload []byte, o *server.PublishOptions, err error) {
	o = &server.PublishOptions{ID: idOf(m.ID), Type: m.Type, Header: m.Header}
	if m.TTL != "" {
		if o.TTL, err = time.ParseDuration(m.TTL); err != nil {
			return nil, nil, errors.New("ttl must be a duration such as 10s")
		}
	}
	switch {
	case (m.Payload == nil) == (m.Base64 == nil):
		return nil, nil, errors.New("a message needs either payload or payload_base64")
	case m.Payload != nil:
		return []byte(*m.Payload), o, nil
	}
	if payload, err = base64.StdEncoding.DecodeString(*m.Base64); err != nil {
		return nil, nil, errors.New("payload_base64 is not base64")
	}
	return payload, o, nil
}

// idOf returns the message id for a key: that of a UUID, else a hash of the text. An empty key has none.
func idOf(key string) wire.ID {
	if key == "" {
		return wire.ID{}
	}
	if id, err := uuid.Parse(key); err == nil {
		return wire.ID(id)
	}
	sum := sha256.Sum256([]byte("limpet idempotency key " + key))
	return wire.ID(sum[:16])
}

// mayPublish answers a request without the token, and reports whether it has one.
func (n *Node) mayPublish(w http.ResponseWriter, r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given, want := sha256.Sum256([]byte(token)), sha256.Sum256(n.token)
	if strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(given[:], want[:]) == 1 {
		return true
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	reply(w, http.StatusUnauthorized, failure{Error: "send the token of publish-token-file as Authorization: Bearer TOKEN"})
	return false
}

// answerUnread answers a request whose body could not be read.
func answerUnread(w http.ResponseWriter, err error) {
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		reply(w, http.StatusRequestEntityTooLarge, failure{Error: fmt.Sprintf("the body is longer than %d bytes", long.Limit)})
		return
	}
	reply(w, http.StatusBadRequest, failure{Error: "the body cannot be read: " + err.Error()})
}

// explain returns the status and the text for an error of Server.Publish.
func explain(err error) (int, string) {
	var refused *server.Error
	switch {
	case errors.Is(err, server.ErrTopic), errors.Is(err, server.ErrMessage):
		return http.StatusBadRequest, err.Error()
	case errors.Is(err, server.ErrTooBig):
		return http.StatusRequestEntityTooLarge, err.Error()
	case errors.Is(err, server.ErrIDReused):
		return http.StatusConflict, err.Error()
	case errors.As(err, &refused):
		return http.StatusUnprocessableEntity, err.Error()
	}
	return http.StatusServiceUnavailable, "it is not known whether the message was published; send it again with the same id"
}

// reply writes v as JSON.
func reply(w http.ResponseWriter, status int, v any) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
