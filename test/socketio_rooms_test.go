package test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
)

// A room that was closed without a connection is left when the session is recovered, since
// the server has kept it. One that has another subscription by then is not, and a server
// with a new session has no room to leave.
func TestSocketIORoomClosedOffline(t *testing.T) {
	for _, row := range []struct {
		name          string
		again, forget bool
		want          string
	}{
		{"closed", false, false, `2 text 40{"offset":"o1","pid":"secret-p1"}` + "\n" + `2 text 42["leave","b"]`},
		{"subscribed again", true, false, `2 text 40{"offset":"o1","pid":"secret-p1"}` + "\n" + `2 text 4213["join","b"]`},
		{"a new session", false, true, `2 text 40{"offset":"o1","pid":"secret-p1"}` + "\n" + `2 text 425["join","a"]`},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newSioPeer(t, joins)
				c, subs := srv.client(t, rooms(), limpet.Options{}, "a", "b")
				for _, s := range subs {
					assert.NoError(t, s.WaitLive(t.Context()))
				}
				srv.emit(`["a",1]`)
				collect(t, subs[0], 1)
				synctest.Wait()
				if row.forget {
					srv.forget()
				}
				srv.host.Network.CutAll()
				assert.NoError(t, subs[1].Close())
				if row.again {
					_, err := c.Subscribe(t.Context(), "b", nil)
					assert.NoError(t, err)
				}
				_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
				assert.NoError(t, err)
				assert.NoError(t, subs[0].WaitLive(t.Context()))
				synctest.Wait()
				if _, heard, _ := strings.Cut(srv.all(), "\n2 "); "2 "+heard != row.want || c.State().Resumed == row.forget {
					t.Errorf("resumed %v, the server heard\n%s\nwant\n%s", c.State().Resumed, srv.all(), row.want)
				}
			})
		})
	}
}
