package hostnet

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftChainMessages is the last nft_msg type that concerns tables and chains (NFT_MSG_DELCHAIN). The types of rules and
// sets are higher.
const nftChainMessages = 5

// WatchChains calls changed at its start and whenever a program adds or removes a table or chain of nf_tables, until ctx
// ends. On a kernel without nf_tables it only waits for the end of ctx.
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
	changed() // changes before the subscription
	for {
		msgs, _, err := s.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("receive from nf_tables netlink: %w", err)
		}
		relevant := err != nil // ENOBUFS: notifications were lost
		for _, m := range msgs {
			relevant = relevant || m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && m.Header.Type&0xff <= nftChainMessages
		}
		if relevant {
			changed()
		}
	}
}

// Watch calls changed whenever links, addresses, routes or rules of the namespace change, also by other programs, until ctx
// ends. A lost notification (the socket's receive queue overflowed) counts as a change.
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
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("receive from route netlink: %w", err)
		}
		changed()
	}
}
