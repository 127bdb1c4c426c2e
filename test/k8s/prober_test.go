//go:build k8s

package k8s

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A prober asks again and again while a test turns the network over, from inside a Pod's network or a node's: this same
// test binary, started there. Requests start every probeEvery whether or not the last one was answered, each on a
// connection of its own, so that the number of those that failed is also a time.

const (
	probeEvery   = 250 * time.Millisecond
	probeTimeout = 5 * time.Second // TCP sends a lost SYN again after 1 and 3 seconds
	probeEnv     = "WARREN_K8S_PROBE"
)

// probe is one thing to ask for: a URL, or with Name a question to the DNS server At.
type probe struct {
	What     string // for people
	URL      string
	Name, At string
	Kept     bool // on one connection, as long as it lasts
}

// answer is a line of the prober.
type answer struct {
	What  string
	Start time.Time
	Ms    int64
	Err   string `json:",omitempty"`
}

func (p probe) ask(c *http.Client) error {
	if p.Name != "" {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, p.At)
		}}
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		_, err := r.LookupNetIP(ctx, "ip4", p.Name) // with AAAA beside it a lost A would read "no such host"
		return err
	}
	resp, err := c.Get(p.URL)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", resp.Status)
	}
	return err
}

// probeMain is the prober: it ends with its standard input.
func probeMain(config string) int {
	var list []probe
	if err := json.Unmarshal([]byte(config), &list); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var mu sync.Mutex
	one := func(p probe, c *http.Client) {
		start := time.Now()
		err := p.ask(c)
		a := answer{What: p.What, Start: start, Ms: time.Since(start).Milliseconds()}
		if err != nil {
			a.Err = err.Error()
		}
		line, _ := json.Marshal(a)
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(string(line))
	}
	for _, p := range list {
		client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: !p.Kept, MaxConnsPerHost: map[bool]int{true: 1}[p.Kept]}}
		go func() {
			for range time.Tick(probeEvery) {
				if p.Kept {
					one(p, client)
				} else {
					go one(p, client)
				}
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// probers gathers what all probers of a test say, by phase and by what was asked for.
type probers struct {
	mu    sync.Mutex
	order []string
	since []time.Time // when each of them began
	seen  map[string]map[string]*tally
}

// tally is what became of one kind of request in one phase.
type tally struct {
	asked, failed int
	slowest       int64 // ms, of those that were answered
	why           map[string]int
}

func newProbers() *probers { return &probers{seen: map[string]map[string]*tally{}} }

// begin names what happens next: what is asked from now on is counted there.
func (p *probers) begin(phase string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order, p.since = append(p.order, phase), append(p.since, time.Now())
	p.seen[phase] = map[string]*tally{}
}

func (p *probers) note(a answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := len(p.order) - 1
	for i > 0 && a.Start.Before(p.since[i]) {
		i--
	}
	seen := p.seen[p.order[i]]
	x := seen[a.What]
	if x == nil {
		x = &tally{why: map[string]int{}}
		seen[a.What] = x
	}
	x.asked++
	if a.Err != "" {
		x.failed++
		x.why[a.Err]++
		return
	}
	x.slowest = max(x.slowest, a.Ms)
}

// start starts a prober on a node or the outside host, inside the Pod that has this address if one is given. The
// returned function ends it.
func (p *probers) start(t *testing.T, where, podIP string, list []probe) (stop func()) {
	t.Helper()
	config, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{where}
	if podIP != "" {
		args = append(args, "nsenter", "--net="+netnsOf(t, where, podIP))
	}
	cmd := exec.Command("rig/in.sh", append(args, "env", probeEnv+"="+string(config), self)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			var a answer
			if json.Unmarshal(s.Bytes(), &a) == nil {
				p.note(a)
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		in.Close()
		<-done
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// netnsOf finds the network namespace of the Pod that has an address.
func netnsOf(t *testing.T, node, ip string) string {
	t.Helper()
	return run(t, node, "sh", "-c", `for f in /run/netns/*; do nsenter --net=$f ip -o addr show dev eth0 2>/dev/null | grep -q " $1/" && echo $f; done; true`, "sh", ip)
}

// report prints the phases, and fails for what failed outside of those that may: phase to the requests, by a part of
// their description.
func (p *probers) report(t *testing.T, may map[string][]string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, phase := range p.order {
		var all tally
		var lines []string
		for _, what := range slices.Sorted(maps.Keys(p.seen[phase])) {
			x := p.seen[phase][what]
			all.asked, all.failed, all.slowest = all.asked+x.asked, all.failed+x.failed, max(all.slowest, x.slowest)
			if x.failed == 0 {
				continue
			}
			whys := slices.SortedFunc(maps.Keys(x.why), func(a, b string) int { return cmp.Compare(x.why[b], x.why[a]) })
			lines = append(lines, fmt.Sprintf("  %s: %d of %d failed, most: %s", what, x.failed, x.asked, whys[0]))
			if !slices.ContainsFunc(may[phase], func(part string) bool { return strings.Contains(what, part) }) {
				t.Errorf("%s: %s: %d of %d requests failed", phase, what, x.failed, x.asked)
			}
		}
		t.Logf("%s: %d requests, %d failed, the slowest answer %d ms", phase, all.asked, all.failed, all.slowest)
		for _, l := range lines {
			t.Log(l)
		}
	}
}
