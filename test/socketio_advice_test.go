package test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/socketio"
)

// A server that refuses the client for a moment is asked again on the same connection, at
// the time that it named and not before, once; meanwhile its pings are answered. A longer
// time, and a second refusal, cost the connection.
func TestSocketIOAdvice(t *testing.T) {
	const asked = `text 40{"token":"t"}`
	for _, row := range []struct {
		name     string
		wait     time.Duration
		refusals int
		want     string
	}{
		{"a moment", 1500 * time.Millisecond, 1, "1 " + asked + "\n1 text 3\n1 " + asked},
		{"a longer time", 5001 * time.Millisecond, 1, "1 " + asked + "\n2 " + asked},
		{"twice", time.Second, 2, "1 " + asked + "\n1 text 3\n1 " + asked + "\n2 " + asked},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refusals := 0
				srv := newSioPeer(t, nil)
				srv.refuses = func(map[string]string) string {
					if refusals++; refusals > row.refusals {
						return ""
					}
					return fmt.Sprintf(`{"message":"busy","data":{"wait":%d}}`, row.wait.Milliseconds())
				}
				srv.advised = row.wait <= 5*time.Second
				o := socketio.Options{Refused: func(message string, _ []byte) (wire.Action, time.Duration) {
					return wire.ActionRetryNow, row.wait
				}}
				began := time.Now()
				c, _ := srv.client(t, o, limpet.Options{Auth: tokens("t")})
				assert.NoError(t, c.WaitReady(t.Context()))
				synctest.Wait()
				if took := time.Since(began); srv.all() != row.want || took < time.Duration(row.refusals)*row.wait || took > time.Duration(row.refusals)*row.wait+time.Second {
					t.Errorf("ready after %v, the server heard\n%s\nwant\n%s", took, srv.all(), row.want)
				}
				if st := c.Stats(); st.Malformed != 0 || strings.Count(row.want, "2 ") > 0 != (st.Attempts == 2) {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}
