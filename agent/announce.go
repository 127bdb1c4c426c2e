package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// announceProblems are what stands between this node and its announcements.
func (a *Agent) announceProblems() (out []string) {
	x := a.announcer.Load()
	if x == nil {
		return nil
	}
	v := x.View()
	for _, s := range v.Addresses {
		if s.Note != "" && s.Owner == "" {
			out = append(out, fmt.Sprintf("load balancer address %s: %s", s.Addr, s.Note))
		} else if s.Note != "" && s.State == "announcing" {
			out = append(out, fmt.Sprintf("load balancer address %s, announced here: %s", s.Addr, s.Note))
		}
	}
	if len(v.Addresses) == 0 {
		return out
	}
	// With proxy ARP the kernel of every node would answer for an address that is routed to the tunnel.
	for _, l := range v.Links {
		for _, f := range []string{"ipv4/conf/all/proxy_arp", "ipv4/conf/" + l + "/proxy_arp"} {
			if raw, err := os.ReadFile(filepath.Join(a.cfg.ProcSysNet, f)); err == nil && strings.TrimSpace(string(raw)) == "1" {
				out = append(out, fmt.Sprintf("sysctl net/%s is 1: this node answers ARP for load balancer addresses that other nodes announce", f))
			}
		}
	}
	return out
}
