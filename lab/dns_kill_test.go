package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// perfRate is in queries per second: low enough for any machine, high enough to measure the downtime.
const perfRate = 500

// A Pod sends DNS queries while the agent of its node is stopped or killed, and started again. Only queries that were sent while
// no agent ran are lost.
func TestDNS_AgentKilledUnderLoad_LosesOnlyDowntime(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1})
	applyYAML(t, l, web("web", "app: web", ""))
	client, err := l.RunPod(context.Background(), PodSpec{Node: "n1", Name: "client", Args: []string{"sleep", "inf"}})
	if err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "a first answer", func() error { return resolves(l, client) })
	file := filepath.Join(t.TempDir(), "questions")
	if err := os.WriteFile(file,
		[]byte("web.default.svc.cluster.local A\nweb.default.svc.cluster.local AAAA\nwww.example.com.svc.cluster.local A\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		sig   syscall.Signal
		after time.Duration
	}{
		{"stopped and started at once", syscall.SIGTERM, 0},
		{"kill -9, started after 100 ms", syscall.SIGKILL, 100 * time.Millisecond},
		{"kill -9, started after 1 s", syscall.SIGKILL, time.Second},
	} {
		t.Run(c.what, func(t *testing.T) {
			perf := begin(t, l, in(l, client), "dnsperf", "-s", "10.43.0.10", "-d", file, "-Q", strconv.Itoa(perfRate), "-l", "300",
				"-t", "1", "-c", "10", "-q", "20000")
			untilSent(t, l, client, perfRate)
			silent := restartAgent(t, l, client, c.sig, c.after)
			untilSent(t, l, client, perfRate)
			text := perf.stop(syscall.SIGINT)
			sent, lost := perfCount(t, text, "sent"), perfCount(t, text, "lost")
			t.Logf("no answer for at most %s; %d of %d queries lost at %d/s", silent.Round(10*time.Millisecond), lost, sent, perfRate)
			if most := int(silent.Seconds()*perfRate) + perfRate/5; lost > most {
				t.Errorf("%d queries lost, at most %d were sent while no agent ran", lost, most)
			}
			if err := l.WaitReady(context.Background()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// restartAgent ends the agent of n1, starts it again after a time, and returns for how long at most no query was answered.
func restartAgent(t *testing.T, l *Lab, client *Pod, sig syscall.Signal, after time.Duration) (silent time.Duration) {
	t.Helper()
	gone := time.Now()
	if err := l.StopAgent("n1", sig); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "the end of the agent", func() error {
		if pid := l.Pid("n1", "agent"); pid != 0 {
			return fmt.Errorf("%d runs", pid)
		}
		return nil
	})
	time.Sleep(after) // the downtime under test
	if err := l.StartAgent("n1"); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "an answer after the start", func() error { return resolves(l, client) })
	return time.Since(gone)
}

// untilSent waits until a Pod has sent that many further datagrams.
func untilSent(t *testing.T, l *Lab, p *Pod, count int) {
	t.Helper()
	first := datagramsSent(t, l, p)
	testutil.Eventually(t, fmt.Sprintf("%d further queries", count), func() error {
		if n := datagramsSent(t, l, p) - first; n < count {
			return fmt.Errorf("%d were sent", n)
		}
		return nil
	})
}

// datagramsSent is the counter OutDatagrams of a Pod (RFC 4113).
func datagramsSent(t *testing.T, l *Lab, p *Pod) int {
	t.Helper()
	out, err := l.PodOutput(p, "cat", "/proc/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^Udp: \d+ \d+ \d+ (\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no counter of UDP in\n%s", out)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// resolves queries once and waits for at most a second.
func resolves(l *Lab, p *Pod) error {
	out, err := l.PodOutput(p, "dig", "+tries=1", "+time=1", "+short", "web.default.svc.cluster.local")
	if err == nil && len(addressesIn(out)) == 0 {
		err = fmt.Errorf("no address in %q", out)
	}
	return err
}

func perfCount(t *testing.T, text, what string) int {
	t.Helper()
	m := regexp.MustCompile(`Queries ` + what + `:\s+(\d+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("dnsperf printed no count of queries %s:\n%s", what, text)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}
