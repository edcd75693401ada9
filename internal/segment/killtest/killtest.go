// Package killtest kills processes that write to a store in files.
package killtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Run starts the test program again and again, with the environment variable key set to dir, and kills
// it: it opens dir, and prints each number that the store has confirmed. Opened is called once while such
// a process lives, and after with the last number after each kill.
func Run(t *testing.T, kills int, key, dir string, opened func(), after func(confirmed uint64) error) {
	confirmed := uint64(0)
	for i := range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), key+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() { // it has opened the directory
			t.Fatalf("the child ended: %v", cmd.Wait())
		}
		if i == 0 {
			opened()
		}
		kill := time.AfterFunc(time.Duration(i*i*37%50)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for more := true; more; more = lines.Scan() {
			if _, err := fmt.Sscan(lines.Text(), &confirmed); err != nil {
				t.Fatal(err)
			}
		}
		kill.Stop()
		_ = cmd.Wait()
		if err := after(confirmed); err != nil {
			t.Fatalf("after kill %d, %d confirmed: %v", i, confirmed, err)
		}
	}
	t.Logf("%d messages were confirmed", confirmed)
}
