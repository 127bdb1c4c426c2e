//go:build !race

package servicelb

const raceOn = false
