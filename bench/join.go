package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/ipam"
)

// join lets n nodes join an empty cluster at once: verify the configuration, claim blocks, register. It starts a real
// etcd on loopback.
func join(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "warren-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	url, stop, err := startEtcd(ctx, o.warren, dir)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println("nodes  all joined after ms  store requests per node  distinct blocks")
	for _, n := range []int{8, 16, 32, 64, 128} {
		r, err := joinAll(ctx, url, n)
		if err != nil {
			return err
		}
		fmt.Printf("%5d  %19.0f  %23.1f  %15d\n", n, float64(r.took.Microseconds())/1e3, float64(r.requests)/float64(n), r.blocks)
	}
	return nil
}

type joined struct {
	took     time.Duration
	requests int64
	blocks   int
}

func joinAll(ctx context.Context, url string, n int) (joined, error) {
	c := model.Cluster{Name: fmt.Sprintf("join%d", n), PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"),
		netip.MustParsePrefix("fd42::/48")}, BlockBits: [2]int{24, 64}, Port: 51820, Domain: "cluster.local"}
	var requests atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	var firstErr error
	seen := map[netip.Prefix]bool{}
	start := time.Now()
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			blocks, err := joinOne(ctx, url, c, i, &requests)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && firstErr == nil {
				firstErr = err
			}
			for _, b := range blocks {
				seen[b] = true
			}
		}()
	}
	wg.Wait()
	return joined{time.Since(start), requests.Load(), len(seen)}, firstErr
}

func joinOne(ctx context.Context, url string, c model.Cluster, i int, requests *atomic.Int64) ([]netip.Prefix, error) {
	s, err := etcd.New(etcd.Config{Endpoints: []string{url}, Cluster: c.Name}) // a connection of its own, as a node has
	if err != nil {
		return nil, err
	}
	defer s.Close()
	requests.Add(1)
	if _, err := s.EnsureCluster(ctx, c); err != nil {
		return nil, err
	}
	o := ipam.Owner{Node: fmt.Sprintf("n%d", i), Identity: fmt.Sprintf("%032d", i)}
	blocks, _, err := ipam.ClaimBlocks(ctx, counting{s, requests}, c, o, nil)
	if err != nil {
		return nil, err
	}
	requests.Add(2) // PutNode reads, then writes
	_, err = s.PutNode(ctx, model.Node{Name: o.Node, Identity: o.Identity, PublicKey: model.Key{byte(i), 1}, PodCIDRs: blocks})
	return blocks, err
}

// counting counts the requests of claims to the store.
type counting struct {
	ipam.BlockStore
	n *atomic.Int64
}

func (c counting) Blocks(ctx context.Context) ([]model.Block, int64, error) {
	c.n.Add(1)
	return c.BlockStore.Blocks(ctx)
}

func (c counting) ClaimBlocks(ctx context.Context, want []model.Block) (bool, []model.Block, int64, error) {
	c.n.Add(1)
	return c.BlockStore.ClaimBlocks(ctx, want)
}

func startEtcd(ctx context.Context, warren, dir string) (string, func(), error) {
	var urls [2]string
	for i := range urls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", nil, err
		}
		urls[i] = "http://" + l.Addr().String()
		l.Close()
	}
	cmd := exec.CommandContext(ctx, warren, "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--client-urls", urls[0],
		"--peer-urls", urls[1], "--insecure", "--log-level", "fatal")
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	s, err := etcd.New(etcd.Config{Endpoints: urls[:1], Cluster: "probe"})
	if err != nil {
		stop()
		return "", nil, err
	}
	defer s.Close()
	for try := 0; ; try++ {
		if _, _, err = s.Blocks(ctx); err == nil {
			return urls[0], stop, nil
		}
		if try == 10 {
			stop()
			return "", nil, err
		}
	}
}
