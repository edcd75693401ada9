package main

// rows are the rows of docs/performance.md, in its order.
var rows = []row{
	receiveRow, publishRow, waitingRow, roundTripRow, writesRow,
	idleRow, residentRow, recoverRow, recoverDefaultRow, rotateRow,
	deliveryRow, codecRow, exactRow, herdRow, feedRow, observeRow, lentRow,
	outboxRow, quietRow, fanoutRow, heldRow, broadcastRow, scaleClientsRow, scaleSubsRow, scaleSizesRow,
}
