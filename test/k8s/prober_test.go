//go:build k8s

package k8s

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
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

// A prober sends requests at a fixed rate while a test changes the network. It is this test binary, started in the network
// namespace of a Pod or a node. Requests start every probeEvery whether or not the previous one was answered, each on its own
// connection, so the number of failed requests is also a duration.

const (
	probeEvery   = 250 * time.Millisecond
	probeTimeout = 5 * time.Second // TCP sends a lost SYN again after 1 and 3 seconds
	probeStart   = 3 * time.Second // until a prober that was started sends its first request, on a busy machine
	probeEnv     = "WARREN_K8S_PROBE"
)

// probe is one kind of request: HTTP to a URL, or a DNS query for Name to the server At.
type probe struct {
	What     string // description, unique among the probes of a test
	URL      string
	Name, At string
	Kept     bool // on one connection, as long as it lasts
}

// atLeast is the number of requests that a probe must report for a time: half of those that it starts after probeStart, without
// the last ones, whose answers may not have arrived. A probe on one connection waits for each answer.
func (p probe) atLeast(active time.Duration) int {
	interval := 2 * probeEvery
	if p.Kept {
		interval = probeEvery + probeTimeout
	}
	return int(max(0, active-probeStart-probeTimeout) / interval)
}

// result is a line of the prober's output: one request.
type result struct {
	What  string
	Start time.Time
	Ms    int64
	Err   string `json:",omitempty"`
}

// send sends one request and waits for its answer.
func (p probe) send(c *http.Client) error {
	if p.Name != "" {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, p.At)
		}}
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		_, err := r.LookupNetIP(ctx, "ip4", p.Name) // if AAAA were queried also, a lost A would be reported as "no such host"
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

// probeMain is the prober. It ends when its standard input ends.
func probeMain(config string) int {
	var list []probe
	if err := json.Unmarshal([]byte(config), &list); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var mu sync.Mutex
	one := func(p probe, c *http.Client) {
		start := time.Now()
		err := p.send(c)
		a := result{What: p.What, Start: start, Ms: time.Since(start).Milliseconds()}
		if err != nil {
			a.Err = err.Error()
		}
		line, _ := json.Marshal(a)
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(string(line))
	}
	for _, p := range list {
		client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: !p.Kept,
			MaxConnsPerHost: map[bool]int{true: 1}[p.Kept]}}
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

// probers collects the results of all probers of a test by phase and probe.
type probers struct {
	mu     sync.Mutex
	phases []*phase
	spans  []*span
}

// phase is a part of a test, from its start to that of the next one.
type phase struct {
	name    string
	start   time.Time
	tallies map[string]*tally // by probe.What
}

// span is the time in which a prober sends the requests of a probe.
type span struct {
	probe      probe
	start, end time.Time // end: zero while it runs
}

// tally counts the requests of one probe in one phase.
type tally struct {
	sent, failed int
	slowest      int64 // ms, of the answered ones
	why          map[string]int
}

// allowance is a number of failed requests that a phase tolerates, over all probes whose description contains part.
type allowance struct {
	part string
	most int
}

func newProbers() *probers { return &probers{} }

// begin starts a phase: requests that start from now on count there.
func (p *probers) begin(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phases = append(p.phases, &phase{name, time.Now(), map[string]*tally{}})
}

func (p *probers) note(a result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := len(p.phases) - 1
	for i > 0 && a.Start.Before(p.phases[i].start) {
		i--
	}
	seen := p.phases[i].tallies
	x := seen[a.What]
	if x == nil {
		x = &tally{why: map[string]int{}}
		seen[a.What] = x
	}
	x.sent++
	if a.Err != "" {
		x.failed++
		x.why[a.Err]++
		return
	}
	x.slowest = max(x.slowest, a.Ms)
}

// opened records that a prober starts to send the requests of probes. The returned function records their end.
func (p *probers) opened(list []probe) (closed func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var mine []*span
	for _, x := range list {
		mine = append(mine, &span{probe: x, start: time.Now()})
	}
	p.spans = append(p.spans, mine...)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, x := range mine {
			x.end = time.Now()
		}
	}
}

// start starts a prober on a node or the outside host, inside the Pod that has this address if one is given. The
// returned function ends it, and fails the test if the prober failed or its output could not be read.
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
	closed := p.opened(list)
	read := make(chan error, 1)
	go func() { read <- p.read(out) }()
	stop = sync.OnceFunc(func() {
		closed()
		in.Close()
		if err := errors.Join(<-read, cmd.Wait()); err != nil {
			t.Errorf("prober in %s %s: %v", where, podIP, err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// read takes the output of a prober to its end. Its error names the first line that is not a result.
func (p *probers) read(out io.Reader) (err error) {
	s := bufio.NewScanner(out)
	for s.Scan() {
		var a result
		if e := json.Unmarshal(s.Bytes(), &a); e != nil {
			err = cmp.Or(err, fmt.Errorf("parse the output %q: %w", s.Text(), e))
			continue
		}
		p.note(a)
	}
	return errors.Join(err, s.Err())
}

// netnsOf finds the network namespace of the Pod that has an address. The test fails if there is none.
func netnsOf(t *testing.T, node, ip string) string {
	t.Helper()
	const find = `for f in /run/netns/*; do
  nsenter --net="$f" ip -o addr show dev eth0 2>/dev/null | grep -q " $1/" && { echo "$f"; exit 0; }
done
echo "no network namespace has $1" >&2
exit 1`
	return run(t, node, "sh", "-c", find, "sh", ip)
}

// report logs the phases. The test fails if more requests failed in a phase than its allowances tolerate, and if a probe sent fewer
// requests in a phase than it must have.
func (p *probers) report(t *testing.T, allowed map[string][]allowance) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, ph := range p.phases {
		end := time.Now()
		if i+1 < len(p.phases) {
			end = p.phases[i+1].start
		}
		for _, err := range slices.Concat(ph.tooFew(p.spans, end), ph.tooManyFailed(allowed[ph.name])) {
			t.Error(err)
		}
		ph.log(t)
	}
	if len(p.spans) == 0 {
		t.Error("no prober was started")
	}
}

// tooFew returns an error for each probe that sent fewer requests in the phase than it must have.
func (ph *phase) tooFew(spans []*span, end time.Time) (errs []error) {
	least := map[string]int{}
	for _, x := range spans {
		from, to := x.start, x.end
		if from.Before(ph.start) {
			from = ph.start
		}
		if to.IsZero() || to.After(end) {
			to = end
		}
		least[x.probe.What] += x.probe.atLeast(to.Sub(from))
	}
	for _, what := range slices.Sorted(maps.Keys(least)) {
		sent := 0
		if x := ph.tallies[what]; x != nil {
			sent = x.sent
		}
		if sent < least[what] {
			errs = append(errs, fmt.Errorf("%s: %s: %d requests were sent, expected at least %d", ph.name, what, sent, least[what]))
		}
	}
	return errs
}

// tooManyFailed returns an error for each probe that failed without an allowance, and for each allowance that is exceeded.
func (ph *phase) tooManyFailed(allowed []allowance) (errs []error) {
	failed := make([]int, len(allowed))
	for _, what := range slices.Sorted(maps.Keys(ph.tallies)) {
		x := ph.tallies[what]
		if x.failed == 0 {
			continue
		}
		i := slices.IndexFunc(allowed, func(a allowance) bool { return strings.Contains(what, a.part) })
		if i < 0 {
			errs = append(errs, fmt.Errorf("%s: %s: %d of %d requests failed", ph.name, what, x.failed, x.sent))
			continue
		}
		failed[i] += x.failed
	}
	for i, a := range allowed {
		if failed[i] > a.most {
			errs = append(errs, fmt.Errorf("%s: %d requests of probes %q failed, tolerated are %d", ph.name, failed[i], a.part, a.most))
		}
	}
	return errs
}

func (ph *phase) log(t *testing.T) {
	t.Helper()
	var all tally
	for _, what := range slices.Sorted(maps.Keys(ph.tallies)) {
		x := ph.tallies[what]
		all.sent, all.failed, all.slowest = all.sent+x.sent, all.failed+x.failed, max(all.slowest, x.slowest)
		if x.failed > 0 {
			whys := slices.SortedFunc(maps.Keys(x.why), func(a, b string) int { return cmp.Compare(x.why[b], x.why[a]) })
			t.Logf("  %s: %d of %d failed, most frequent: %s", what, x.failed, x.sent, whys[0])
		}
	}
	t.Logf("%s: %d requests, %d failed, the slowest answer %d ms", ph.name, all.sent, all.failed, all.slowest)
}
