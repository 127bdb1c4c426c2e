package hostnet

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tables and chains of nf_tables that come or go: nft_msg types 0 to 5, rules and sets come after.
const nftChainMessages = 5

// WatchChains calls changed at its start and whenever tables or chains of nf_tables came or went, whoever did it, until
// ctx ends. On a kernel without nf_tables nothing ever does.
func WatchChains(ctx context.Context, changed func()) error {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		<-ctx.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, s.Close)
	defer func() {
		if stop() {
			s.Close()
		}
	}()
	changed() // what came before
	for {
		msgs, _, err := s.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && err != unix.ENOBUFS {
			return fmt.Errorf("receive from nf_tables netlink: %w", err)
		}
		about := err != nil
		for _, m := range msgs {
			about = about || m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && m.Header.Type&0xff <= nftChainMessages
		}
		if about {
			changed()
		}
	}
}

// Watch calls changed whenever links, addresses, routes or rules of the namespace changed, whoever did it, until ctx
// ends. A lost notification (the kernel's queue ran over) counts as a change.
func Watch(ctx context.Context, changed func()) error {
	groups := []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return fmt.Errorf("subscribe to route netlink: %w", err)
	}
	stop := context.AfterFunc(ctx, s.Close)
	defer func() {
		if stop() {
			s.Close()
		}
	}()
	for {
		_, _, err := s.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && err != unix.ENOBUFS {
			return fmt.Errorf("receive from route netlink: %w", err)
		}
		changed()
	}
}
