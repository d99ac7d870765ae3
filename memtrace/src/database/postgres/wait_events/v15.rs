//! PostgreSQL 15. Checked against what 15.20 itself says (`pgstat_get_wait_event`, `GetBackendTypeDesc`).

use super::Names;

pub(super) const NAMES: Names = Names {
    backends: "not initialized, autovacuum launcher, autovacuum worker, client backend, background worker, background \
        writer, checkpointer, startup, walreceiver, walsender, walwriter, archiver, logger",
    lwlock: "- ShmemIndex OidGen XidGen ProcArray SInvalRead SInvalWrite WALBufMapping WALWrite ControlFile - XactSLRU \
        SubtransSLRU MultiXactGen MultiXactOffsetSLRU MultiXactMemberSLRU RelCacheInit CheckpointerComm \
        TwoPhaseState TablespaceCreate BtreeVacuum AddinShmemInit Autovacuum AutovacuumSchedule SyncScan \
        RelationMapping NotifySLRU NotifyQueue SerializableXactHash SerializableFinishedList \
        SerializablePredicateList SerialSLRU SyncRep BackgroundWorker DynamicSharedMemoryControl AutoFile \
        ReplicationSlotAllocation ReplicationSlotControl CommitTsSLRU CommitTs ReplicationOrigin \
        MultiXactTruncation OldSnapshotTimeMap LogicalRepWorker XactTruncation - WrapLimitsVacuum NotifyQueueTail \
        XactBuffer CommitTsBuffer SubtransBuffer MultiXactOffsetBuffer MultiXactMemberBuffer NotifyBuffer \
        SerialBuffer WALInsert BufferContent ReplicationOriginState ReplicationSlotIO LockFastPath BufferMapping \
        LockManager PredicateLockManager ParallelHashJoin ParallelQueryDSA PerSessionDSA PerSessionRecordType \
        PerSessionRecordTypmod SharedTupleStore SharedTidBitmap ParallelAppend PerXactPredicateList PgStatsDSA \
        PgStatsHash PgStatsData",
    lock: "relation extend frozenid page tuple transactionid virtualxid spectoken object userlock advisory",
    buffer_pin: "BufferPin",
    activity: "ArchiverMain AutoVacuumMain BgWriterHibernate BgWriterMain CheckpointerMain LogicalApplyMain \
        LogicalLauncherMain RecoveryWalStream SysLoggerMain WalReceiverMain WalSenderMain WalWriterMain",
    client: "ClientRead ClientWrite GSSOpenServer LibPQWalReceiverConnect LibPQWalReceiverReceive SSLOpenServer \
        WalSenderWaitForWAL WalSenderWriteData",
    extension: "Extension",
    ipc: "AppendReady ArchiveCleanupCommand ArchiveCommand BackendTermination BackupWaitWalArchive BgWorkerShutdown \
        BgWorkerStartup BtreePage BufferIO CheckpointDone CheckpointStart ExecuteGather HashBatchAllocate \
        HashBatchElect HashBatchLoad HashBuildAllocate HashBuildElect HashBuildHashInner HashBuildHashOuter \
        HashGrowBatchesAllocate HashGrowBatchesDecide HashGrowBatchesElect HashGrowBatchesFinish \
        HashGrowBatchesRepartition HashGrowBucketsAllocate HashGrowBucketsElect HashGrowBucketsReinsert \
        LogicalSyncData LogicalSyncStateChange MessageQueueInternal MessageQueuePutMessage MessageQueueReceive \
        MessageQueueSend ParallelBitmapScan ParallelCreateIndexScan ParallelFinish ProcArrayGroupUpdate \
        ProcSignalBarrier Promote RecoveryConflictSnapshot RecoveryConflictTablespace RecoveryEndCommand \
        RecoveryPause ReplicationOriginDrop ReplicationSlotDrop RestoreCommand SafeSnapshot SyncRep \
        WalReceiverExit WalReceiverWaitStart XactGroupUpdate WalReceiverUpstreamCatchup",
    timeout: "BaseBackupThrottle CheckpointWriteDelay PgSleep RecoveryApplyDelay RecoveryRetrieveRetryInterval \
        RegisterSyncRequest VacuumDelay VacuumTruncate",
    io: "BaseBackupRead BaseBackupSync BaseBackupWrite BufFileRead BufFileWrite BufFileTruncate ControlFileRead \
        ControlFileSync ControlFileSyncUpdate ControlFileWrite ControlFileWriteUpdate CopyFileRead CopyFileWrite \
        DataFileExtend DataFileFlush DataFileImmediateSync DataFilePrefetch DataFileRead DataFileSync \
        DataFileTruncate DataFileWrite DSMFillZeroWrite LockFileAddToDataDirRead LockFileAddToDataDirSync \
        LockFileAddToDataDirWrite LockFileCreateRead LockFileCreateSync LockFileCreateWrite \
        LockFileReCheckDataDirRead LogicalRewriteCheckpointSync LogicalRewriteMappingSync \
        LogicalRewriteMappingWrite LogicalRewriteSync LogicalRewriteTruncate LogicalRewriteWrite RelationMapRead \
        RelationMapSync RelationMapWrite ReorderBufferRead ReorderBufferWrite ReorderLogicalMappingRead \
        ReplicationSlotRead ReplicationSlotRestoreSync ReplicationSlotSync ReplicationSlotWrite SLRUFlushSync \
        SLRURead SLRUSync SLRUWrite SnapbuildRead SnapbuildSync SnapbuildWrite TimelineHistoryFileSync \
        TimelineHistoryFileWrite TimelineHistoryRead TimelineHistorySync TimelineHistoryWrite TwophaseFileRead \
        TwophaseFileSync TwophaseFileWrite VersionFileWrite WALSenderTimelineHistoryRead WALBootstrapSync \
        WALBootstrapWrite WALCopyRead WALCopySync WALCopyWrite WALInitSync WALInitWrite WALRead WALSync \
        WALSyncMethodAssign WALWrite VersionFileSync",
};
