package hostnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Chain is a chain of nf_tables, which iptables' rules are part of where it is its successor's front end.
type Chain struct {
	Table, Name string
	Forward     bool // hooked where forwarded packets pass
	Drop        bool // drops what its rules do not accept
}

// Numbers of linux/netfilter/nf_tables.h.
const (
	nftGetChain    = 4
	nftaChainTable = 1
	nftaChainName  = 3
	nftaChainHook  = 4
	nftaChainPol   = 5
	nftaHookNum    = 1
	hookForward    = 2 // NF_INET_FORWARD
	policyDrop     = 0 // NF_DROP
)

// KubeProxy reports whether a chain is of those that translate Services for a kube-proxy, in any of its modes.
func (c Chain) KubeProxy() bool {
	return c.Name == "KUBE-SERVICES" || c.Name == "KUBE-NODEPORTS" || c.Table == "kube-proxy"
}

// Chains lists every chain; it only reads. A kernel without nf_tables has none.
func Chains() ([]Chain, error) {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|nftGetChain, unix.NLM_F_DUMP)
	r.AddData(nfgenmsg{unix.AF_UNSPEC})
	msgs, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	out := make([]Chain, 0, len(msgs))
	for _, m := range msgs {
		if len(m) < 4 {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[4:])
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		c, policy := Chain{}, uint32(1)
		for _, a := range attrs {
			switch a.Attr.Type &^ unix.NLA_F_NESTED {
			case nftaChainTable:
				c.Table = string(bytes.TrimRight(a.Value, "\x00"))
			case nftaChainName:
				c.Name = string(bytes.TrimRight(a.Value, "\x00"))
			case nftaChainPol:
				if len(a.Value) == 4 {
					policy = binary.BigEndian.Uint32(a.Value)
				}
			case nftaChainHook:
				c.Forward = hooked(a.Value, hookForward)
			}
		}
		c.Drop = policy == policyDrop
		out = append(out, c)
	}
	return out, nil
}

func hooked(nested []byte, hook uint32) bool {
	attrs, err := nl.ParseRouteAttr(nested)
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED == nftaHookNum && len(a.Value) == 4 {
			return binary.BigEndian.Uint32(a.Value) == hook
		}
	}
	return false
}
