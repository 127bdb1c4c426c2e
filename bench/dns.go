package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	coreDNSVersion = "v1.15.0"
	dnsServices    = 1000
	dnsRate        = 10000 // queries per second at which latency is taken
)

// dnsPeers answer the same names: CoreDNS with its file and cache plugins, the wire library over a map, and warren.
var dnsPeers = []string{"coredns", "miekg", "warren"}

// dnsSuite measures one server after the other in interleaved rounds, each pinned to CPU 0 with one processor, the load on
// CPU 1. CPU time is the server's own, so it holds on a noisy machine; rates hold less.
func dnsSuite(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "warren-dnsbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tool := filepath.Join(dir, "dnsbench")
	if err := command(ctx, "", "go", "build", "-o", tool, "./dns/dnsbench"); err != nil {
		return err
	}
	core, err := buildCoreDNS(ctx)
	if err != nil {
		return err
	}
	if err := command(ctx, "", tool, "files", dir, strconv.Itoa(dnsServices)); err != nil {
		return err
	}
	t := newTable("coredns")
	for round := range o.rounds {
		for i, peer := range dnsPeers {
			addr := fmt.Sprintf("127.0.0.1:%d", 5400+round*len(dnsPeers)+i)
			if err := dnsRound(ctx, t, dnsPeer{peer, addr, tool, core, dir}, o.seconds); err != nil {
				return fmt.Errorf("%s: %w", peer, err)
			}
		}
	}
	t.print()
	return nil
}

type dnsPeer struct{ name, addr, tool, core, dir string }

// start runs the server until the returned function is called.
func (p dnsPeer) start(ctx context.Context) (pid int, stop func(), err error) {
	args := []string{"-c", "0", p.tool, "serve", p.name, p.addr, strconv.Itoa(dnsServices)}
	if p.name == "coredns" {
		_, port, _ := net.SplitHostPort(p.addr)
		conf := filepath.Join(p.dir, "Corefile")
		text := fmt.Sprintf(".:%s {\n bind 127.0.0.1\n errors\n cache 30\n file %s/zone cluster.local\n file %s/reverse "+
			"10.in-addr.arpa\n}\n", port, p.dir, p.dir)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return 0, nil, err
		}
		args = []string{"-c", "0", p.core, "-conf", conf}
	}
	cmd := exec.CommandContext(ctx, "taskset", args...) // taskset becomes the server
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	return cmd.Process.Pid, stop, waitTCP(ctx, p.addr)
}

func waitTCP(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no server on %s: %w", addr, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func dnsRound(ctx context.Context, t *table, p dnsPeer, seconds int) error {
	pid, stop, err := p.start(ctx)
	if stop != nil {
		defer stop()
	}
	if err != nil {
		return err
	}
	if _, err := p.load(ctx, 1, 0); err != nil { // warm: caches filled, heap grown
		return err
	}
	before := schedTime(pid)
	full, err := p.load(ctx, seconds, 0)
	if err != nil {
		return err
	}
	t.add("CPU s per million queries", p.name, (schedTime(pid)-before)/(full[0]*float64(seconds)/1e6))
	t.add("queries per second", p.name, full[0])
	before = schedTime(pid)
	slow, err := p.load(ctx, seconds, dnsRate)
	if err != nil {
		return err
	}
	t.add("p50 us at 10,000/s", p.name, slow[2])
	t.add("p99 us at 10,000/s", p.name, slow[3])
	t.add("CPU s per million at 10,000/s", p.name, (schedTime(pid)-before)/(slow[0]*float64(seconds)/1e6))
	total := full[4] + full[5] + full[6] + full[7]
	for i, kind := range []string{"% with records", "% without data", "% not existing", "% other"} {
		t.addShare(kind, p.name, 100*full[4+i]/total)
	}
	t.add("memory MB", p.name, residentMB(pid))
	return nil
}

func (p dnsPeer) load(ctx context.Context, seconds, rate int) ([]float64, error) {
	out, err := exec.CommandContext(ctx, "taskset", "-c", "1", p.tool, "load", p.addr, filepath.Join(p.dir, "questions"),
		strconv.Itoa(seconds), strconv.Itoa(rate)).Output()
	if err != nil {
		return nil, err
	}
	var v []float64
	for _, f := range strings.Fields(string(out)) {
		x, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return nil, err
		}
		v = append(v, x)
	}
	if len(v) != 8 {
		return nil, fmt.Errorf("load printed %q", out)
	}
	return v, nil
}

// schedTime is the CPU time of all threads of a process in seconds, exact to the nanosecond. A thread that has ended takes
// its time with it; servers keep theirs.
func schedTime(pid int) (s float64) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, f := range tasks {
		b, _ := os.ReadFile(f)
		var ns float64
		_, _ = fmt.Sscan(string(b), &ns)
		s += ns / 1e9
	}
	return s
}

func residentMB(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, resident float64
	_, _ = fmt.Sscan(string(b), &size, &resident)
	return resident * float64(os.Getpagesize()) / (1 << 20)
}

// buildCoreDNS builds the peer once, from the module proxy, in a module of its own outside the repository.
func buildCoreDNS(ctx context.Context) (string, error) {
	dir := filepath.Join(os.TempDir(), "warren-bench-coredns-"+coreDNSVersion)
	bin := filepath.Join(dir, "coredns")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	program := "package main\n\nimport (\n\t\"github.com/coredns/coredns/coremain\"\n"
	for _, plugin := range []string{"bind", "cache", "errors", "file"} {
		program += fmt.Sprintf("\t_ \"github.com/coredns/coredns/plugin/%s\"\n", plugin)
	}
	program += ")\n\nfunc main() { coremain.Run() }\n"
	module := "module peers/coredns\n\ngo 1.26\n\nrequire github.com/coredns/coredns " + coreDNSVersion + "\n"
	for name, text := range map[string]string{"main.go": program, "go.mod": module} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if err := command(ctx, dir, "go", "mod", "tidy", "-e"); err != nil {
		return "", err
	}
	return bin, command(ctx, dir, "go", "build", "-o", "coredns", ".")
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
