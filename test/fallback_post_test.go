package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

type through = func(next http.Handler, w http.ResponseWriter, r *http.Request)

// everyThird applies fault to each third request.
func everyThird(fault through) through {
	var n atomic.Int64
	return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%3 == 0 {
			fault(next, w, r)
		} else {
			next.ServeHTTP(w, r)
		}
	}
}

// hang answers nothing for a minute, and leaves the body where it is: net/http then does not
// notice the end of the connection.
func hang(_ http.Handler, _ http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	<-timer.C
}

// again returns r with the same body, to be served beside r or later.
func again(t testing.TB, r *http.Request) (first, second *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	first, second = r.Clone(r.Context()), r.Clone(context.WithoutCancel(r.Context()))
	first.Body, second.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
	return first, second
}

// A path may lose a POST or its answer, repeat it, delay it, or send the repetition later than
// the next one. Each message is accepted once, in its order, on the same connection.
func TestFallbackPostsAreTakenOnce(t *testing.T) {
	for name, fault := range map[string]func(t *testing.T) through{
		"lost": func(*testing.T) through {
			return func(http.Handler, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		},
		"answer lost": func(*testing.T) through {
			return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
		},
		"a gateway error": func(*testing.T) through {
			return func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
				http.Error(w, "try again", http.StatusBadGateway)
			}
		},
		"a gateway error for the answer": func(*testing.T) through {
			return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(httptest.NewRecorder(), r)
				http.Error(w, "try again", http.StatusGatewayTimeout)
			}
		},
		"twice": func(t *testing.T) through {
			return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				first, second := again(t, r)
				next.ServeHTTP(httptest.NewRecorder(), first)
				next.ServeHTTP(w, second)
			}
		},
		"twice at once": func(t *testing.T) through {
			return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				first, second := again(t, r)
				done := make(chan struct{})
				go func() {
					defer close(done)
					next.ServeHTTP(httptest.NewRecorder(), second)
				}()
				next.ServeHTTP(w, first)
				<-done
			}
		},
		"repeated later": func(t *testing.T) through {
			return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				first, second := again(t, r)
				next.ServeHTTP(w, first)
				time.AfterFunc(time.Second, func() { next.ServeHTTP(httptest.NewRecorder(), second) })
			}
		},
		"late": func(*testing.T) through {
			return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				<-time.After(time.Second)
				next.ServeHTTP(w, r)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, nil)
				p.set(func() { p.post = everyThird(fault(t)) })
				c := p.client(t, nil)
				s := subscribeLive(t, c, "numbers", nil)
				for i := range 100 {
					if _, err := c.Publish(t.Context(), "numbers", []byte(strconv.Itoa(i)), nil); err != nil {
						t.Fatal(err)
					}
					if i%7 == 0 {
						time.Sleep(300 * time.Millisecond)
					}
				}
				if err := c.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				for i, m := range collect(t, s, 100) {
					if m.Kind != limpet.Data || string(m.Payload) != strconv.Itoa(i) {
						t.Fatalf("message %d is %v %q", i, m.Kind, m.Payload)
					}
				}
				time.Sleep(2 * time.Second)
				got, stats := p.server.Stats(), c.Stats()
				if stats.Connections != 1 || stats.Resent != 0 || got.Accepted != 100 || got.Duplicates != 0 {
					t.Errorf("%d connections, %d resent; the server accepted %d and knew %d", stats.Connections, stats.Resent, got.Accepted, got.Duplicates)
				}
			})
		})
	}
}

// Where one direction dies the connection does: the session goes on over the next one, and
// nothing is lost or doubled.
func TestFallbackHalfDead(t *testing.T) {
	lost := func(t *testing.T, p *narrowPath, fault through) {
		p.set(func() { p.post = fault })
		time.AfterFunc(30*time.Second, func() { p.set(func() { p.post = nil }) })
	}
	for name, hurt := range map[string]func(t *testing.T, p *narrowPath){
		"POSTs are refused by a proxy": func(t *testing.T, p *narrowPath) {
			lost(t, p, func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
				http.Error(w, "blocked", http.StatusForbidden)
			})
		},
		"POSTs are sent elsewhere": func(t *testing.T, p *narrowPath) {
			lost(t, p, func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "/elsewhere", http.StatusSeeOther)
			})
		},
		"POSTs are lost": func(t *testing.T, p *narrowPath) {
			lost(t, p, func(http.Handler, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		},
		"POSTs hang": func(t *testing.T, p *narrowPath) {
			lost(t, p, func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			})
		},
		"POSTs hang with their bodies": func(t *testing.T, p *narrowPath) {
			lost(t, p, hang)
		},
		"POSTs succeed and arrive nowhere": func(t *testing.T, p *narrowPath) {
			lost(t, p, func(_ http.Handler, w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
		},
		"the GET is cut": func(t *testing.T, p *narrowPath) { p.Network.CutAll() },
		"the GET is cut in a frame": func(t *testing.T, p *narrowPath) {
			// On the next connection, in the middle of its answer.
			var gets atomic.Int64
			p.set(func() {
				p.get = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
					if gets.Add(1) == 1 {
						w = &cutWriter{ResponseWriter: w, left: 700}
					}
					next.ServeHTTP(w, r)
				}
			})
			p.Network.ResetAll()
		},
		"the server ends": func(t *testing.T, p *narrowPath) { p.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, nil)
				c := p.client(t, nil)
				s := subscribeLive(t, c, "numbers", nil)
				const n = 200
				for i := range n {
					if i == 50 {
						hurt(t, p)
					}
					if _, err := c.Publish(t.Context(), "numbers", []byte(strconv.Itoa(i)), nil); err != nil {
						t.Fatal(err)
					}
					time.Sleep(50 * time.Millisecond)
				}
				for i, m := range collect(t, s, n) {
					if m.Kind != limpet.Data || string(m.Payload) != strconv.Itoa(i) {
						t.Fatalf("message %d is %v %q", i, m.Kind, m.Payload)
					}
				}
				if err := c.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if p.strays != 0 {
					t.Errorf("%d redirects were followed", p.strays)
				}
				if got, stats := p.server.Stats(), c.Stats(); stats.Acked != n || got.Accepted != n || stats.Connections < 2 || c.State().Transport != limpet.TransportHTTP {
					t.Errorf("%d acknowledged, %d accepted, %d connections, %+v", stats.Acked, got.Accepted, stats.Connections, c.State())
				}
			})
		})
	}
}

// On a link of 1 KiB a second the server must not wait for a whole POST for longer than it
// waits for a sign of life: POSTs are shorter there, and the connection lasts.
func TestFallbackOnASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Buffer: 1 << 10, Up: time.Second}})
		c := p.client(t, nil)
		s := subscribeLive(t, c, "big", nil)
		began := time.Now()
		for range 3 {
			if _, err := c.Publish(t.Context(), "big", make([]byte, 60<<10), nil); err != nil {
				t.Fatal(err)
			}
		}
		collect(t, s, 3)
		if took, stats := time.Since(began), c.Stats(); stats.Connections != 1 || took < 150*time.Second || took > 6*time.Minute {
			t.Errorf("%d connections, %v", stats.Connections, took)
		}
	})
}

// cutWriter passes on the first bytes of an answer, and then ends the connection.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *cutWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(len(p), w.left)])
	if w.left -= n; err == nil && n < len(p) {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(-time.Second))
		return n, errors.New("cut")
	}
	return n, err
}

// A POST that reaches another server is refused by that, and the client says what is wrong.
func TestFallbackNeedsAffinity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other, err := server.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		p := newNarrowPath(t, nil, nil)
		p.set(func() {
			p.post = func(_ http.Handler, w http.ResponseWriter, r *http.Request) { other.ServeHTTP(w, r) }
		})
		c := p.client(t, nil)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		s := c.State()
		if !errors.Is(s.Cause, limpet.ErrAffinity) || limpet.ClassOf(s.Cause) != limpet.ClassNetwork || s.Phase == limpet.Ended {
			t.Errorf("%+v", s)
		}
		// A balancer that binds clients with a cookie works without a cookie jar.
		p.set(func() {
			p.get = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "node", Value: "this", Path: "/"})
				next.ServeHTTP(w, r)
			}
			p.post = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				if node, err := r.Cookie("node"); err != nil || node.Value != "this" {
					next = other
				}
				next.ServeHTTP(w, r)
			}
		})
		awaitReady(t, c, limpet.TransportHTTP)
	})
}

// Close waits neither for POSTs nor for the GET.
func TestFallbackCloseIsBounded(t *testing.T) {
	for name, hurt := range map[string]func(p *narrowPath){
		"a path that works": func(*narrowPath) {},
		"POSTs hang": func(p *narrowPath) {
			p.post = hang
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, nil)
				c := p.client(t, nil)
				awaitReady(t, c, limpet.TransportHTTP)
				p.set(func() { hurt(p) })
				for range 10 {
					if _, err := c.Publish(t.Context(), "a", make([]byte, 100<<10), nil); err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				c.Close()
				<-c.Done()
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("took %v", took)
				}
				synctest.Wait()
				if n := p.server.Stats().Fallback; name == "a path that works" && n != 0 {
					t.Errorf("the server still has %d connections", n)
				}
			})
		})
	}
}

// The close codes of both sides pass.
func TestFallbackCloseCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, &server.Options{Hooks: server.Hooks{Authenticate: func(context.Context, *http.Request, string) (server.Principal, error) {
			return server.Principal{}, &server.Error{Code: 4101, Reason: "no such token"}
		}}}, nil)
		c := p.client(t, nil)
		<-c.Done()
		var e *limpet.Error
		if !errors.As(c.Err(), &e) || e.Code != 4101 || limpet.ClassOf(c.Err()) != limpet.ClassAuth {
			t.Errorf("ended with %v", c.Err())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		c := p.client(t, nil)
		awaitReady(t, c, limpet.TransportHTTP)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := p.server.Shutdown(ctx); err != nil || time.Since(began) > 100*time.Millisecond {
			t.Errorf("Shutdown: %v after %v: the close handshake did not pass", err, time.Since(began))
		}
		synctest.Wait()
		var e *limpet.Error
		if cause := c.State().Cause; !errors.As(cause, &e) || e.Code != 4300 {
			t.Errorf("the cause is %v", cause)
		}
	})
}

// The last POST of a connection that either end closes is the client's close frame, and nothing
// of it is left at the server.
func TestFallbackSaysGoodbye(t *testing.T) {
	for name, end := range map[string]func(*narrowPath, *limpet.Client){
		"Close":      func(_ *narrowPath, c *limpet.Client) { c.Close() },
		"Shutdown":   func(_ *narrowPath, c *limpet.Client) { _ = c.Shutdown(context.Background()) },
		"the server": func(p *narrowPath, _ *limpet.Client) { _ = p.server.Shutdown(context.Background()) },
	} {
		for _, busy := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Up: 10 * time.Millisecond}})
				var last atomic.Pointer[[]byte]
				p.set(func() {
					p.post = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
						first, second := again(t, r)
						body, _ := io.ReadAll(second.Body)
						last.Store(&body)
						<-time.After(10 * time.Millisecond)
						next.ServeHTTP(w, first)
					}
				})
				c := p.client(t, nil)
				awaitReady(t, c, limpet.TransportHTTP)
				time.Sleep(time.Second)
				if busy { // a POST is on its way
					if _, err := c.Publish(t.Context(), "a", []byte("b"), nil); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				end(p, c)
				time.Sleep(200 * time.Millisecond)
				synctest.Wait()
				if body := *last.Load(); lastOpcode(body) != 8 {
					t.Errorf("%s, busy %v: the last POST is %x", name, busy, body)
				}
				c.Close()
				<-c.Done()
				if st := p.server.Stats(); st.Fallback != 0 || st.Conns != 0 {
					t.Errorf("%+v", st)
				}
			})
		}
	}
}

// lastOpcode returns that of the last of some short masked frames.
func lastOpcode(frames []byte) (opcode byte) {
	for len(frames) >= 6 {
		opcode = frames[0] & 0x0f
		frames = frames[min(len(frames), 6+int(frames[1]&0x7f)):]
	}
	return opcode
}

// Big messages go in many POSTs, and what is published while one is on its way goes in the
// next: a round trip costs time, not requests.
func TestFallbackBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		p.set(func() {
			p.post = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				if r.ContentLength > 64<<10 || r.ContentLength <= 0 {
					t.Errorf("a POST of %d bytes", r.ContentLength)
				}
				time.Sleep(100 * time.Millisecond)
				next.ServeHTTP(w, r)
			}
		})
		c := p.client(t, nil)
		s := subscribeLive(t, c, "big", nil)
		_, _, before := p.counts()
		began := time.Now()
		for i := range 1000 {
			if _, err := c.Publish(t.Context(), "big", []byte(fmt.Sprintf("%0100d", i)), nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Publish(t.Context(), "big", bytes.Repeat([]byte("x"), 250<<10), nil); err != nil {
			t.Fatal(err)
		}
		ms := collect(t, s, 1001)
		if _, _, after := p.counts(); after-before > 30 || time.Since(began) > 3*time.Second {
			t.Errorf("%d POSTs in %v", after-before, time.Since(began))
		}
		if last := ms[1000]; len(last.Payload) != 250<<10 {
			t.Errorf("the big one has %d bytes", len(last.Payload))
		}
	})
}
