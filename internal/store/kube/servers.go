package kube

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"time"
)

// Candidates are the API servers that a connection may try, by origin.
type Candidates struct {
	Configured []string // by the operator
	HostIP     string   // of this node, which may be a control-plane node; "" for none
	Cached     []string // of an earlier run
}

// List returns the addresses as "host:port" in the order in which they are tried, each once. The Service's address comes
// last, because it works only after warren serves it. Invalid entries are left out and reported by the error.
func (c Candidates) List() (out []string, err error) {
	port := strconv.Itoa(DefaultPort)
	local := []string{net.JoinHostPort("127.0.0.1", port)}
	if c.HostIP != "" {
		local = slices.Insert(local, 0, net.JoinHostPort(c.HostIP, port))
	}
	var service []string
	if host := os.Getenv("KUBERNETES_SERVICE_HOST"); host != "" {
		service = []string{net.JoinHostPort(host, cmp.Or(os.Getenv("KUBERNETES_SERVICE_PORT"), "443"))}
	}
	for _, s := range slices.Concat(c.Configured, local, c.Cached, service) {
		p, perr := ParseServer(s)
		if perr != nil {
			err = errors.Join(err, perr)
		} else if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, err
}

// FollowFiles calls changed after the content of one of the files changed or a file appeared, until ctx ends. It reads
// the files in that interval; the kubelet updates mounted ConfigMaps within a minute. Unreadable files are skipped.
func FollowFiles(ctx context.Context, files []string, every time.Duration, changed func()) {
	last := make([]string, len(files))
	for i, f := range files {
		raw, _ := os.ReadFile(f)
		last[i] = string(raw)
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		differs := false
		for i, f := range files {
			if raw, err := os.ReadFile(f); err == nil && string(raw) != last[i] {
				last[i], differs = string(raw), true
			}
		}
		if differs {
			changed()
		}
	}
}
